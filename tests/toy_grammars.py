"""Grammars that stand in for real ones, imported by name in every process that has this folder on its path."""

import builtins
import threading
from collections.abc import Callable, Iterable, Sequence

from octavo.sampling.grammars import ModelTokens
from octavo.structured_outputs import Grammar

KINDS = dict.fromkeys(("alternating", "multiples", "changing", "failing"), "toy_grammars:ToyGrammars")


def bits(allowed: Iterable[int], vocab_size: int) -> bytes:
    return sum(1 << token for token in allowed).to_bytes(-(-vocab_size // 8), "little")


class ToyMatcher:
    """Allows what a function of the tokens consumed says."""

    num_consumed = 0
    """By all of them together."""
    is_lost = False

    def __init__(
        self, allowed_after: Callable[[list[int]], Iterable[int]], vocab_size: int, token_ids: Sequence[int] = ()
    ) -> None:
        self._allowed_after = allowed_after
        self._vocab_size = vocab_size
        self._token_ids = list(token_ids)

    def consume(self, token_ids: Sequence[int]) -> None:
        self._token_ids += token_ids
        ToyMatcher.num_consumed += len(token_ids)

    def mask(self) -> bytes:
        return bits(self._allowed_after(self._token_ids), self._vocab_size)

    def forced(self) -> list[int]:
        allowed = list(self._allowed_after(self._token_ids))
        return allowed if len(allowed) == 1 else []

    def copy(self) -> "ToyMatcher":
        return ToyMatcher(self._allowed_after, self._vocab_size, self._token_ids)


class ToyGrammars:
    """Follows all of them."""

    def __init__(self, tokens: ModelTokens) -> None:
        self._vocab_size = tokens.vocab_size

    def compile(self, grammar: Grammar) -> ToyMatcher:
        make: Callable[[str, int], ToyMatcher] = globals()[grammar.kind]
        return make(grammar.source, self._vocab_size)

    def masks(self, matchers: Sequence[ToyMatcher]) -> list[bytes]:
        return [matcher.mask() for matcher in matchers]


def alternating(source: str, vocab_size: int) -> ToyMatcher:
    """Odd tokens after even ones and the other way round, an odd one first."""
    return ToyMatcher(lambda tokens: range(0 if tokens and tokens[-1] % 2 else 1, vocab_size, 2), vocab_size)


def multiples(source: str, vocab_size: int) -> ToyMatcher:
    """Only multiples of a number."""
    return ToyMatcher(lambda tokens: range(0, vocab_size, int(source)), vocab_size)


def allowed_to_change(eos: int, vocab_size: int, tokens: Sequence[int]) -> list[int]:
    """Not the last token again, and the end not at an odd place."""
    return [token for token in range(vocab_size) if token not in tokens[-1:] and (token != eos or len(tokens) % 2)]


def changing(source: str, vocab_size: int) -> ToyMatcher:
    """`allowed_to_change`, where `source` is the end."""
    return ToyMatcher(lambda tokens: allowed_to_change(int(source), vocab_size, tokens), vocab_size)


def failing(source: str, vocab_size: int) -> ToyMatcher:
    """Everything, but after two tokens it raises the exception that `source` names."""

    def allowed_after(tokens: list[int]) -> Iterable[int]:
        if len(tokens) == 2:
            raise getattr(builtins, source)
        return range(vocab_size)

    return ToyMatcher(allowed_after, vocab_size)


class SlowGrammars(ToyGrammars):
    """Compiles nothing until it may."""

    may_go_on = threading.Event()

    def compile(self, grammar: Grammar) -> ToyMatcher:
        SlowGrammars.may_go_on.wait()
        if grammar.source == "wrong":
            raise ValueError("it cannot be compiled")
        return alternating(grammar.source, self._vocab_size)
