"""The process in which grammars of requests are tried, before an engine hears of them, within the bounds of
`bounded_process`: it compiles each for the model's vocabulary and follows it by some tokens."""

import msgspec

from octavo import bounded_process
from octavo.errors import RequestError
from octavo.sampling.grammar_sources import source_of
from octavo.sampling.guidance import CompiledGrammar, TextTokens
from octavo.structured_outputs import Grammar

NICENESS = 10
"""Where processors are short, those who generate go first."""


class Question(msgspec.Struct, array_like=True):
    """Whether a grammar can be followed, to be found out in so much processor time."""

    grammar: Grammar
    max_time_s: float


_decode = msgspec.msgpack.Decoder(Question).decode


def main() -> None:
    """Answer until the other end closes, each question with what is wrong with the grammar: nothing, if it is good."""
    bounded_process.serve(_begin, lambda asked: _decode(asked).max_time_s, NICENESS)


def _begin(vocabulary: bytes) -> bounded_process.Answer:
    token_bytes = msgspec.msgpack.decode(vocabulary, type=list[bytes])
    # One token more ends outputs, as nothing depends on which of a model's tokens does.
    tokens = TextTokens([*token_bytes, b""], [len(token_bytes)], None)
    return lambda asked: _problem(tokens, _decode(asked).grammar).encode()


def _problem(tokens: TextTokens, grammar: Grammar) -> str:
    try:
        CompiledGrammar(tokens, source_of(grammar, tokens.marks)).try_first_tokens()
    except RequestError as error:
        return str(error)
    except MemoryError:
        return "it takes too much memory"
    except BaseException as error:  # what a compiler in Rust panics with is no Exception
        return f"its compiler has failed ({type(error).__name__})"
    return ""


if __name__ == "__main__":
    main()
