"""A drafter from a row's own text: where its end has come before, it may go on as it did then.

How many tokens are guessed depends on what they are worth: on how often such guesses were right of late in this row,
and on what drafts cost a step.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from octavo.execution.plan import Plan
from octavo.execution.row_tables import RowTables
from octavo.execution.step_costs import StepCosts
from octavo.execution.suffix_automaton import SuffixAutomaton

MAX_DRAFTS = 32
"""Tokens that are guessed at once for a row."""
MAX_INDEXED = 2**17
"""Tokens in the automata of all rows: these take 60 MB then. Rows for which there is no room have no drafts."""
MAX_INDEXED_A_STEP = 1024
"""Tokens that are added in a step: a millisecond or two."""
DEAREST = 0.7
"""What a draft may cost, as a share of what a token costs its step. In large steps it costs more: even sure drafts gain
little there, and rows are not followed, as that takes a hundredth of the step."""
END = -1
"""Stands behind a prediction. It is no token."""
NUM_BEFORE_PREDICTION = 16
"""Tokens of a prompt's end that its prediction is put behind, so that an answer may begin as that does."""


class Acceptance:
    """How often the token that followed a row's longest match was the next one again, by the match's length."""

    PRIOR = (0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.9)
    """For no match, and lengths of 1, 2 to 3, 4 to 7 and so on; the last is for 32 and more."""
    PRIOR_WEIGHT = 2.0
    """Tokens that this counts as."""
    KEPT = 0.95
    """Of what was known before, at each new token."""

    __slots__ = ("_right", "_told")

    def __init__(self) -> None:
        self._told = [self.PRIOR_WEIGHT] * len(self.PRIOR)
        self._right = [self.PRIOR_WEIGHT * prior for prior in self.PRIOR]

    def note(self, match_length: int, is_right: bool) -> None:
        """Take into account whether a match was followed as it was before."""
        kind = min(match_length.bit_length(), len(self.PRIOR) - 1)
        self._told[kind] = self.KEPT * self._told[kind] + 1
        self._right[kind] = self.KEPT * self._right[kind] + is_right

    def chances(self, match_length: int) -> Iterator[float]:
        """How likely the next token follows as it did before, the next two do, and so on: each right one makes the
        match longer."""
        chance = 1.0
        while True:
            kind = min(match_length.bit_length(), len(self.PRIOR) - 1)
            chance *= self._right[kind] / self._told[kind]
            yield chance
            match_length += 1


class IndexedRow:
    """A row's text as far as it is indexed, and how well guesses from it have done.

    Args:
        before: a text that stands before the row's, to guess from as well.
        num_prompt: tokens of the row's prompt: what follows it tells how good guesses are.
    """

    __slots__ = ("_before", "_num_prompt", "acceptance", "automaton", "place")

    def __init__(self, before: Sequence[int], num_prompt: int) -> None:
        self._before = before
        self._num_prompt = num_prompt
        self.place = -len(before)
        """Of the next token to index, in the row; below 0 those of `before` come next."""
        self.automaton = SuffixAutomaton()
        self.acceptance = Acceptance()

    def follow(self, own: npt.NDArray[np.int32], most: int) -> None:
        """Index the next tokens, at most so many.

        Args:
            own: `[place + most]` or longer, the row's tokens.
        """
        automaton = self.automaton
        more = self._before[self.place :][:most] if self.place < 0 else own[self.place : self.place + most].tolist()
        for token in more:
            if automaton.match_length and self.place >= self._num_prompt:
                self.acceptance.note(automaton.match_length, automaton.tokens[automaton.follows] == token)
            automaton.append(token)
            self.place += 1

    def guess(self, count: int) -> list[int]:
        """Up to `count` tokens that followed the match. Where that reaches the text's end, they go round."""
        text, first = self.automaton.tokens, self.automaton.follows
        drafts = text[first : first + count]
        while len(drafts) < count:
            drafts += drafts[: count - len(drafts)]
        return drafts[: drafts.index(END)] if END in drafts else drafts


class SuffixDrafter:
    """Guesses rows' tokens from their own, and from predictions that requests bring. Nothing of one row is used for
    another.

    What it has of a row is a cache: it is dropped when the row loses its blocks, and made again from the row's tokens.
    """

    max_drafts = MAX_DRAFTS

    def __init__(self) -> None:
        self._rows: dict[int, IndexedRow] = {}
        self._predictions: dict[int, list[int]] = {}
        self._num_indexed = 0
        self._costs = StepCosts()

    def follow(self, plan: Plan) -> None:
        for row in (*plan.released, *plan.removed):
            if (indexed := self._rows.pop(row, None)) is not None:
                self._num_indexed -= len(indexed.automaton.tokens)
        for row in plan.removed:
            self._predictions.pop(row, None)
        for new in plan.added:
            if new.prediction:
                self._predictions[new.row] = [*new.token_ids[-NUM_BEFORE_PREDICTION:], *new.prediction, END]
        for fork in plan.forked:
            if fork.parent in self._predictions:
                self._predictions[fork.row] = self._predictions[fork.parent]

    def learn(self, num_rows: int, num_drafts: int, seconds: float) -> None:
        self._costs.learn(num_rows, num_drafts, seconds)

    def propose(self, rows: Sequence[int], tables: RowTables) -> list[list[int]]:
        longer, each = self._costs.drafts(len(rows))
        if each * len(rows) > DEAREST:
            return [[] for _ in rows]
        matched = self._index(rows, tables)
        counts = self._num_worth(len(rows), matched, longer, each) if matched else {}
        return [matched[row].guess(counts[row]) if row in counts else [] for row in rows]

    def _index(self, rows: Sequence[int], tables: RowTables) -> dict[int, IndexedRow]:
        """Index the rows' new tokens, as far as there is room and time. Returns the rows of which all are, and which
        end as they did before somewhere."""
        left = num_before = min(MAX_INDEXED_A_STEP, MAX_INDEXED - self._num_indexed)
        matched = {}
        for row, num_tokens in zip(rows, tables.num_tokens[np.array(rows, np.int64)].tolist(), strict=True):
            indexed = self._rows.get(row)
            if indexed is None:
                indexed = IndexedRow(self._predictions.get(row, ()), int(tables.num_prompt[row]))
                self._rows[row] = indexed
            while (place := indexed.place) < num_tokens and left:
                indexed.follow(tables.tokens[row], min(left, num_tokens - place))
                left -= indexed.place - place
            if place == num_tokens and indexed.automaton.match_length:
                matched[row] = indexed
        self._num_indexed += num_before - left
        return matched

    def _num_worth(self, num_rows: int, matched: dict[int, IndexedRow], longer: float, each: float) -> dict[int, int]:
        """How many drafts each row is to have: the likeliest of all rows, as many as make the next step give the most
        tokens in its time, and none where it gives more without.

        Args:
            longer, each: as `StepCosts.drafts` gives them.
        """
        likely: list[tuple[float, int]] = []
        for row, indexed in matched.items():
            for chance in islice(indexed.acceptance.chances(indexed.automaton.match_length), MAX_DRAFTS):
                if chance <= each * num_rows:
                    break
                likely.append((chance, row))
        likely.sort(reverse=True)
        best, num_best, num_expected = float(num_rows), 0, float(num_rows)
        for count, (chance, _) in enumerate(likely, 1):
            num_expected += chance
            if (value := num_expected / (1 + longer + each * count)) > best:
                best, num_best = value, count
        return Counter(row for _, row in likely[:num_best])
