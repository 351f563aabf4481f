"""Random outputs that a grammar lets through, with the tokens of a real model."""

import random
from functools import cache
from typing import Any

import numpy as np

from octavo.checkpoints.locate import locate
from octavo.sampling.grammar_sources import source_of
from octavo.sampling.guidance import CompiledGrammar, TextTokens
from octavo.sampling.tag_parts import Token
from octavo.structured_outputs import Grammar
from octavo.tokenization.tokenizer import Tokenizer

SPECIAL = (
    *("<|call|>", "<|return|>", "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|tool_call|>", "<|/tool_call|>", "<|python_tag|>"),
)
"""Special tokens of other models, beside smollm2's. The first two end outputs."""
MARKS = ("<tool_call>", "</tool_call>", "\n</parameter>", '{"name": "', "[tool_")
"""Texts of formats, as tokens that are not special."""
CLOSING = (b'"', b"}", b"]", b", ", b")", b"\n", b"<", b">", b"0", b"1")
"""What brings an output to its end."""


class Walks:
    """Draws outputs token by token from what a grammar's masks allow."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        more = [*(b"\xff" + text.encode() for text in SPECIAL), *(text.encode() for text in MARKS)]
        self.tokens = [*token_bytes, *more]
        self._ends = [len(token_bytes), len(token_bytes) + 1]
        self._text = [content.removeprefix(b"\xff") for content in self.tokens]
        self._closes = np.array([content.startswith(CLOSING) for content in self._text])
        self._marks = np.arange(len(token_bytes) + len(self._ends), len(self.tokens))
        self.vocabulary = TextTokens(self.tokens, self._ends, None)

    def compiled(self, grammar: Grammar) -> CompiledGrammar:
        return CompiledGrammar(self.vocabulary, source_of(grammar, self.vocabulary.marks))

    def walk(self, grammar: CompiledGrammar, seed: int, begin: str = "", most: int = 200) -> str | None:
        """The text of an output; None where it does not come to an end within so many tokens.

        Args:
            begin: what it begins with.
        """
        draw, state, text = random.Random(seed), grammar.begin(), begin.encode()
        assert state.consume_tokens(self._spelled(begin)), f"{begin} does not conform"
        for _ in range(most):
            bits = np.frombuffer(state.compute_bitmask(), np.uint8)
            assert not state.is_error(), (state.get_error(), text)
            allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: len(self.tokens)])
            going = allowed[~np.isin(allowed, self._ends)]
            if len(going) < len(allowed) and (draw.random() < 0.5 or not len(going)):
                return text.decode()
            chosen = int(draw.choice(self._likely(going, draw.random())))
            state.consume_token(chosen)
            text += self._text[chosen]
        return None

    def conforms(self, grammar: CompiledGrammar, text: str) -> bool:
        """Whether an output that is this text does, and may end."""
        state, token_ids = grammar.begin(), self._spelled(text)
        return state.try_consume_tokens(token_ids) == len(token_ids) and state.is_accepting()

    def _spelled(self, text: str) -> list[int]:
        parts = self.vocabulary.marks.parts_of(text)
        spelled = [[part.id] if isinstance(part, Token) else self._bytes(own) for own, part in parts]
        return [token_id for token_ids in spelled for token_id in token_ids]

    def _bytes(self, text: str) -> list[int]:
        return [self.tokens.index(bytes([byte])) for byte in text.encode()]

    def _likely(self, allowed: "np.ndarray[Any, Any]", luck: float) -> "np.ndarray[Any, Any]":
        """Mostly what makes calls and brings them to an end, where such may come."""
        marks, closing = np.intersect1d(allowed, self._marks), allowed[self._closes[allowed]]
        if len(marks) and luck < 0.3:
            return marks
        return closing if len(closing) and luck < 0.8 else allowed


@cache
def walks() -> Walks:
    """With the first of smollm2's tokens, among them every byte."""
    return Walks(Tokenizer.from_gguf(*locate("smollm2").pieces).grammar_tokens()[:4096])
