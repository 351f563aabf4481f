"""Grammars of text, which llguidance follows in the bytes of a model's tokens (github.com/guidance-ai/llguidance)."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from llguidance import LLExecutor, LLMatcher, LLTokenizer

from octavo.errors import GrammarError
from octavo.sampling.grammar_sources import LIMITS, first_lines, source_of
from octavo.sampling.marks import Marks
from octavo.structured_outputs import Grammar

if TYPE_CHECKING:
    from octavo.sampling.grammars import ModelTokens

NUM_TRIED = 8
"""Tokens that a grammar is followed by to find out whether it can be."""
NICENESS = 10
"""Of the thread that compiles: where processors are short, steps go first."""


class TextTokens:
    """A vocabulary as llguidance wants it.

    Args:
        token_bytes: of each token; none of one that stands for no text.
        eos_token_ids: at least one.
        encode: token ids of a text, without special ones around it.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(
        self, token_bytes: Sequence[bytes], eos_token_ids: Sequence[int], encode: Callable[[str], list[int]] | None
    ) -> None:
        self.tokens = token_bytes
        self.eos_token_id = eos_token_ids[0]
        self._ends = frozenset(eos_token_ids)
        self._encode = encode
        self.table = LLTokenizer(self, eos_token=list(eos_token_ids))  # type: ignore[arg-type]

    def __call__(self, text: str) -> list[int]:
        """Tokens of a text that a grammar leaves no choice about: the tokenizer's own where they spell it exactly."""
        if self._encode is not None:
            token_ids = self._encode(text)
            if b"".join(self.tokens[i] for i in token_ids if i < len(self.tokens)) == text.encode():
                return token_ids
        return self.table.greedy_tokenize(text)

    @cached_property
    def marks(self) -> Marks:
        """The special tokens, by the texts behind the byte that no text has."""
        special = {content[1:]: i for i, content in enumerate(self.tokens) if content[:1] == b"\xff" and content[1:]}
        return Marks({text.decode(errors="replace"): i for text, i in special.items()}, self._ends, len(self.tokens))


class Guidance:
    """A `Follower` of the built-in kinds.

    Args:
        tokens: the model's. Its tokenizer is loaded when the first grammar is compiled.
    """

    def __init__(self, tokens: "ModelTokens") -> None:
        self._model = tokens
        self._num_bytes = -(-tokens.vocab_size // 32) * 4

    @cached_property
    def _tokens(self) -> TextTokens:
        model = self._model
        return TextTokens(
            model.token_bytes,
            sorted(i for i in model.eos_token_ids if i < model.vocab_size),
            lambda text: model.tokenizer.encode(text, add_special_tokens=False),
        )

    @cached_property
    def _pool(self) -> LLExecutor:
        return LLExecutor(self._model.num_threads)

    @cached_property
    def _end(self) -> bytes:
        """The mask of the end of an output."""
        return sum(1 << i for i in self._model.eos_token_ids).to_bytes(self._num_bytes, "little")

    def compile(self, grammar: Grammar) -> "GuidanceMatcher":
        """One that has consumed nothing.

        Raises:
            GrammarError: the grammar is wrong.
        """
        _step_back()
        return GuidanceMatcher(CompiledGrammar(self._tokens, source_of(grammar, self._tokens.marks)))

    def masks(self, matchers: Sequence["GuidanceMatcher"]) -> list[bytes]:
        """As `Follower.masks`; several are made together.

        Raises:
            GrammarError: one of the outputs cannot be followed.
        """
        masks = [self._end] * len(matchers)
        live = [index for index, matcher in enumerate(matchers) if not matcher.is_lost]
        if len(live) == 1:
            masks[live[0]] = matchers[live[0]].mask()
        elif live:
            buffer = ctypes.create_string_buffer(len(live) * self._num_bytes)
            asked = [(matchers[index].state, place) for place, index in enumerate(live)]
            self._pool.unsafe_compute_mask_ptr(asked, ctypes.addressof(buffer), self._num_bytes, len(live))
            filled = memoryview(buffer)
            for place, index in enumerate(live):
                begin = place * self._num_bytes
                own = filled[begin : begin + self._num_bytes].tobytes()
                masks[index] = own if not matchers[index].state.is_error() else matchers[index].mask()
        return masks


class CompiledGrammar:
    """A grammar for one vocabulary. Matchers that follow it share what llguidance learns of it on the way.

    Raises:
        GrammarError: the grammar is wrong.
    """

    def __init__(self, tokens: TextTokens, source: str) -> None:
        self._tokens = tokens
        self._source = source
        self._shared = self.anew()

    def begin(self) -> LLMatcher:
        """A state that has consumed nothing."""
        return self._shared.deep_copy()

    def anew(self) -> LLMatcher:
        """The same, which shares nothing with any other."""
        state = LLMatcher(self._tokens.table, self._source, log_level=0, limits=LIMITS)
        if state.is_error():
            raise GrammarError(_told(state))
        return state

    def try_first_tokens(self) -> None:
        """Find out what only following it tells, by the first tokens of an output.

        Raises:
            GrammarError: no output conforms, or following one takes more than it may.
        """
        state = self.begin()
        for _ in range(NUM_TRIED):
            allowed = int.from_bytes(state.compute_bitmask(), "little")
            if not state.is_error() and not state.is_stopped():
                state.consume_token((allowed & -allowed).bit_length() - 1)  # the lowest: mostly those of one byte
            if state.is_error():
                raise GrammarError(_told(state))
            if state.is_stopped():
                return

    def forget(self) -> None:
        """Let those that begin later share nothing with those before them."""
        self._shared = self.anew()


class GuidanceMatcher:
    """Follows an output. One that leaves its grammar, as drafts may, is lost: it may only end."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._token_ids: list[int] = []
        self._is_alone = False
        """Whether its state is shared with no other's."""
        self.state = grammar.begin()
        self.is_lost = False

    def consume(self, token_ids: Sequence[int]) -> None:
        """As `Matcher.consume`.

        Raises:
            GrammarError: following takes more than it may.
        """
        self._token_ids += token_ids
        if self.is_lost:
            return
        num_consumed = self.state.try_consume_tokens(list(token_ids))
        if self.state.is_error():
            self._start_again()
        else:
            self.is_lost = num_consumed < len(token_ids)

    def mask(self) -> bytes:
        """The tokens that may come next, of one that is not lost.

        Raises:
            GrammarError: as `consume`, or the grammar has come to where nothing may follow.
        """
        bits = self.state.compute_bitmask()
        if self.state.is_error():
            self._start_again()
            bits = self.state.compute_bitmask()
            if self.state.is_error():
                raise GrammarError(_told(self.state))
        return bits

    def forced(self) -> list[int]:
        """As `Matcher.forced`."""
        return [] if self.is_lost else self.state.compute_ff_tokens()

    def copy(self) -> "GuidanceMatcher":
        """Another one that has consumed the same tokens."""
        twin = object.__new__(GuidanceMatcher)
        twin._grammar, twin._token_ids, twin._is_alone = self._grammar, list(self._token_ids), False
        twin.state, twin.is_lost = self.state.deep_copy(), self.is_lost
        return twin

    def _start_again(self) -> None:
        """Follow the output from its beginning, sharing nothing: what is shared has a bound, and others may have used
        it up.

        Raises:
            GrammarError: this output alone does so.
        """
        if self._is_alone:
            raise GrammarError(_told(self.state))
        self._grammar.forget()
        self.state, self._is_alone = self._grammar.anew(), True
        self.is_lost = self.state.try_consume_tokens(self._token_ids) < len(self._token_ids)
        if self.state.is_error():
            raise GrammarError(_told(self.state))


def _step_back() -> None:
    """Let steps go first, where this is a thread that compiles beside them."""
    if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _told(state: LLMatcher) -> str:
    message = first_lines(state.get_error())
    return "nothing that may follow conforms" if message in ("", "NoExtension", "NoExtensionBias") else message
