"""Rows that carry drafts: guesses at their next tokens, of which those are accepted that sampling would have given."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from octavo.execution.plan import Plan, StepOutput
from octavo.execution.row_tables import IntArray, RowTables


class Drafter(Protocol):
    """Guesses the tokens that follow a row's own. A wrong guess costs time and changes no token."""

    @property
    def max_drafts(self) -> int:
        """Tokens that it guesses at once for a row, at most."""
        ...

    def follow(self, plan: Plan) -> None:
        """Take note of the rows that begin, fork, lose their blocks and end."""
        ...

    def learn(self, num_rows: int, num_drafts: int, seconds: float) -> None:
        """Take note of what a step took in which so many rows decoded, with so many drafts in all."""
        ...

    def propose(self, rows: Sequence[int], tables: RowTables) -> list[list[int]]:
        """Guess what follows the tokens of some rows that have just got one.

        Returns:
            For each row at most `max_drafts` tokens of the vocabulary; none where there is no good guess.
        """
        ...


class SampledPositions(NamedTuple):
    """The positions of a step that are sampled: a row with drafts has one before each of them, and the last."""

    places: IntArray
    """`[num_positions]`, in the flat list of the step's tokens."""
    num_ahead: IntArray
    """`[num_positions]`: how many of the row's drafts lie before the token that is sampled there."""
    counts: IntArray
    """`[num_sampled_rows]`: positions of each row."""


def sampled_positions(plan: Plan, ends: IntArray) -> SampledPositions:
    """Where the rows of a plan that has drafts are sampled.

    Args:
        ends: `[num_rows]`, the place of each computed row's last token in the flat list.
    """
    num_drafts = np.zeros(len(plan.rows), np.int64)
    for index, token_ids in plan.drafts:
        num_drafts[index] = len(token_ids)
    own = num_drafts[plan.logits_from]
    counts = own + 1
    num_ahead = np.arange(counts.sum()) - (counts.cumsum() - counts).repeat(counts)
    return SampledPositions((ends[plan.logits_from] - own).repeat(counts) + num_ahead, num_ahead, counts)


def accepted_positions(plan: Plan, counts: IntArray, token_ids: Sequence[int]) -> list[range]:
    """The positions whose tokens each sampled row gets: up to the first where its draft is another than the token
    sampled there.

    Args:
        counts: as `SampledPositions.counts`.
        token_ids: `[num_positions]`, what was sampled.
    """
    drafts, accepted, first = dict(plan.drafts), [], 0
    for source, count in zip(plan.logits_from, counts.tolist(), strict=True):
        num_right = 0
        for draft in drafts.get(source, ()):
            if draft != token_ids[first + num_right]:
                break
            num_right += 1
        accepted.append(range(first, first + num_right + 1))
        first += count
    return accepted


def join_positions(output: StepOutput, accepted: list[range]) -> None:
    """Make an output with an entry for each sampled position one with an entry for each sampled row, in place."""
    output.token_ids = [[token for place in own for token in output.token_ids[place]] for own in accepted]
    if output.logprobs:
        told = output.logprobs
        output.logprobs = [
            None if told[own[0]] is None else [one for place in own for one in told[place] or ()] for own in accepted
        ]
    row_of = {own[0]: row for row, own in enumerate(accepted)}
    output.candidates = [(row_of[place], candidates) for place, candidates in output.candidates]
