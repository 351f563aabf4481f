"""The masks of rows whose output conforms to a grammar, or whose reasoning has a bound: functions of grammar, section
and output tokens. What a matcher has consumed is kept from step to step, which saves time and changes nothing."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import Indices, TokenIds
from octavo.sampling.grammars import Grammars
from octavo.sampling.reasoning import OutputMatcher
from octavo.sampling.table import TokenHistory
from octavo.structured_outputs import Grammar, ReasoningSection

MAX_FORCED = 8
"""Tokens of a row that are foretold at once: what most schemas force, and each is sampled from logits of its own."""


class _Wanted(NamedTuple):
    """What a row's output is held to."""

    grammar: Grammar | None
    section: ReasoningSection | None


class _State(NamedTuple):
    """A row's matcher, and how many of its output tokens it has consumed."""

    matcher: OutputMatcher
    num_consumed: int


class RowMatchers:
    """The grammars and the reasoning sections of those rows that have one. Rows without cost nothing, nor do those of
    which nothing will be masked any more. A row's output only ever grows."""

    def __init__(self, grammars: Grammars) -> None:
        self._known = grammars
        self._wanted: dict[int, _Wanted] = {}
        self._states: dict[int, _State] = {}

    def has_any(self, rows: Indices) -> bool:
        """Whether one of these rows may have a mask."""
        return bool(self._wanted) and not self._wanted.keys().isdisjoint(rows.tolist())

    def set_row(self, row: int, grammar: Grammar | None, section: ReasoningSection | None = None) -> None:
        """Start a row."""
        self.clear_row(row)
        if grammar is not None or (section is not None and section.max_tokens is not None):
            self._wanted[row] = _Wanted(grammar, section)

    def copy_row(self, parent: int, row: int) -> None:
        """Start a row that goes on where `parent` is."""
        self.clear_row(row)
        if parent in self._wanted:
            self._wanted[row] = self._wanted[parent]
        state = self._states.get(parent)
        if state is not None:
            self._states[row] = state._replace(matcher=state.matcher.copy())

    def clear_row(self, row: int) -> None:
        """Forget a row, if it is known."""
        self._wanted.pop(row, None)
        self.drop_state(row)

    def drop_state(self, row: int) -> None:
        """Give back what a row's matcher takes; it is made again from the tokens when the row is sampled next."""
        self._states.pop(row, None)

    def masks(self, rows: Indices, positions: NDArray[np.int64], history: TokenHistory) -> list[tuple[int, bytes]]:
        """What may be sampled in some rows. All masks are made together.

        Args:
            rows: `[n]` row ids. One that has drafts comes several times together, before and behind each of them.
            positions: `[n]`, how many output tokens and drafts lie before the one to sample.

        Returns:
            (index in `rows`, mask) wherever something is masked.
        """
        places: list[int] = []
        asked: list[tuple[Grammar | None, OutputMatcher]] = []
        for row, group in groupby(range(len(rows)), key=rows.tolist().__getitem__):
            if row in self._wanted:
                indices = list(group)
                num_output = int(positions[indices[0]])
                _, token_ids = history(row, num_output + len(indices) - 1)
                output, drafts = token_ids[:num_output], token_ids[num_output:].tolist()
                places += indices
                asked += self._followed(row, output, drafts)
        return [(place, mask) for place, mask in zip(places, self._masks(asked), strict=True) if mask is not None]

    def forced(self, row: int, output: TokenIds) -> list[int]:
        """Tokens that come behind a row's output, one after another, as nothing else may; at most `MAX_FORCED`. None
        where following the output fails: its mask will tell."""
        if row not in self._wanted:
            return []
        try:
            return self._advanced(row, output).forced()[:MAX_FORCED]
        except Exception:
            return []

    def row_masks(self, row: int, output: TokenIds, drafts: Sequence[int] = ()) -> list[bytes | None]:
        """The masks of a row that may have some: of the token after its output, and of that after each of the drafts
        that follow the output."""
        return self._masks(self._followed(row, output, drafts))

    def _masks(self, asked: Sequence[tuple[Grammar | None, OutputMatcher]]) -> list[bytes | None]:
        of_grammars = [
            (grammar, matcher.grammar)
            for grammar, matcher in asked
            if grammar is not None and matcher.grammar is not None
        ]
        made = iter(self._known.masks(of_grammars))
        return [matcher.mask(None if matcher.grammar is None else next(made)) for _, matcher in asked]

    def _followed(
        self, row: int, output: TokenIds, drafts: Sequence[int]
    ) -> list[tuple[Grammar | None, OutputMatcher]]:
        """The row's matcher behind its output, and copies of it behind each of the drafts."""
        grammar, matchers = self._wanted[row].grammar, [self._advanced(row, output)]
        for draft in drafts:
            behind = matchers[-1].copy()
            behind.consume([draft])
            matchers.append(behind)
        return [(grammar, matcher) for matcher in matchers]

    def _advanced(self, row: int, output: TokenIds) -> OutputMatcher:
        """The row's matcher, which has consumed its output and nothing else."""
        state = self._states.pop(row, None)  # so that a matcher that fails halfway is never met again
        matcher, num_consumed = state or _State(self._known.follow(*self._wanted[row]), 0)
        if len(output) > num_consumed:
            matcher.consume(output[num_consumed:].tolist())
        if matcher.is_over:
            del self._wanted[row]
        else:
            self._states[row] = _State(matcher, len(output))
        return matcher
