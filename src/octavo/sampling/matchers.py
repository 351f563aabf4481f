"""The masks of rows whose output conforms to a grammar: functions of grammar and output tokens. What a matcher has
consumed is kept from step to step, which saves time and changes nothing."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import Indices, TokenIds
from octavo.sampling.grammars import Grammars, Matcher
from octavo.sampling.table import TokenHistory
from octavo.structured_outputs import Grammar


class _State(NamedTuple):
    """A row's matcher, and the tokens that it has consumed."""

    matcher: Matcher
    consumed: TokenIds


class RowMatchers:
    """The grammars of those rows that have one. Rows without cost nothing."""

    def __init__(self, grammars: Grammars) -> None:
        self._known = grammars
        self._grammars: dict[int, Grammar] = {}
        self._states: dict[int, _State] = {}

    def has_any(self, rows: Indices) -> bool:
        """Whether one of these rows has a grammar."""
        return bool(self._grammars) and not self._grammars.keys().isdisjoint(rows.tolist())

    def set_row(self, row: int, grammar: Grammar | None) -> None:
        """Start a row."""
        self.clear_row(row)
        if grammar is not None:
            self._grammars[row] = grammar

    def copy_row(self, parent: int, row: int) -> None:
        """Start a row that goes on where `parent` is."""
        self.set_row(row, self._grammars.get(parent))
        state = self._states.get(parent)
        if state is not None:
            self._states[row] = state._replace(matcher=state.matcher.copy())

    def clear_row(self, row: int) -> None:
        """Forget a row, if it is known."""
        self._grammars.pop(row, None)
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
            (index in `rows`, mask) of each row that has a grammar.
        """
        places: list[int] = []
        asked: list[tuple[Grammar, Matcher]] = []
        for row, group in groupby(range(len(rows)), key=rows.tolist().__getitem__):
            if row in self._grammars:
                indices = list(group)
                num_output = int(positions[indices[0]])
                _, token_ids = history(row, num_output + len(indices) - 1)
                output, drafts = token_ids[:num_output], token_ids[num_output:].tolist()
                places += indices
                asked += self._followed(row, output, drafts)
        return list(zip(places, self._known.masks(asked), strict=True))

    def row_masks(self, row: int, output: TokenIds, drafts: Sequence[int] = ()) -> list[bytes]:
        """The masks of a row that has a grammar: of the token after its output, and of that after each of the drafts
        that follow the output."""
        return self._known.masks(self._followed(row, output, drafts))

    def _followed(self, row: int, output: TokenIds, drafts: Sequence[int]) -> list[tuple[Grammar, Matcher]]:
        """The row's matcher behind its output, and copies of it behind each of the drafts."""
        matchers = [self._advanced(row, output)]
        for draft in drafts:
            behind = matchers[-1].copy()
            behind.consume([draft])
            matchers.append(behind)
        return [(self._grammars[row], matcher) for matcher in matchers]

    def _advanced(self, row: int, output: TokenIds) -> Matcher:
        """The row's matcher, which has consumed its output and nothing else."""
        state = self._states.pop(row, None)  # so that a matcher that fails halfway is never met again
        if state is None or not np.array_equal(state.consumed, output[: len(state.consumed)]):
            state = _State(self._known.matcher(self._grammars[row]), output[:0])
        fresh = output[len(state.consumed) :].tolist()
        if fresh:
            state.matcher.consume(fresh)
        self._states[row] = _State(state.matcher, output.copy())
        return state.matcher
