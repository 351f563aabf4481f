"""Beam search over one request: which candidates go on, which are finished, and when it is over (paper, section 4.4).

The rules are those of transformers' `generate(num_beams=...)`. Plain bookkeeping: blocks and rows are the scheduler's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from octavo.outputs import BeamCandidates, TokenLogprobs
from octavo.sampling_params import Beams


@dataclass(slots=True)
class Beam:
    """A sequence that the search may go on with."""

    token_ids: list[int]
    cumulative_logprob: float
    told: list[TokenLogprobs]
    """An entry a token, where the request asked for logprobs."""


class Hypothesis(NamedTuple):
    """A finished sequence. `score` is what it is compared by: the sum over the length to the power of the penalty."""

    score: float
    cumulative_logprob: float
    token_ids: list[int]
    told: list[TokenLogprobs]


class Extension(NamedTuple):
    """A beam with a token more. Extensions sort by likelihood; equals by the beam's place, then by the token."""

    negative_logprob: float
    """Of the whole, negated."""
    parent: int
    """The beam's place in `BeamSearch.beams` before the step."""
    token_id: int
    place: int
    """The token's among its beam's candidates."""


class BeamSearch:
    """The beams of a request, best first, and the best hypotheses so far.

    Args:
        settings: how wide to search, and how to compare.
        max_tokens: the length of the longest sequence.
        stop_token_ids: tokens that finish a sequence.
    """

    def __init__(self, settings: Beams, max_tokens: int, stop_token_ids: frozenset[int]) -> None:
        self.beams = [Beam([], 0.0, [])]
        self.hypotheses: list[Hypothesis] = []
        """Best first, at most as many as the search is wide."""
        self._settings = settings
        self._max_tokens = max_tokens
        self._stop_token_ids = stop_token_ids
        self._length = 0

    @property
    def num_candidates(self) -> int:
        """As many as are needed of a beam: if all of the search's next beams come from it, and every stop is likelier
        than these."""
        return self._settings.width + len(self._stop_token_ids)

    def advance(self, candidates: Sequence[BeamCandidates]) -> list[Extension]:
        """Take one step: finish what ends, keep the best of the rest.

        Args:
            candidates: for each of `beams`, its likeliest next tokens, `num_candidates` where there are so many.

        Returns:
            How the new `beams` came from the old ones, best first; none once the search is over.
        """
        width = self._settings.width
        ordered = sorted(self._extensions(candidates))
        self._length += 1
        # A stop counts only among the best `width`: those after them are there to take the places of what stops.
        ended = [each for each in ordered[:width] if self._ends(each)]
        kept = [each for each in ordered if not self._ends(each)][:width]
        self._finish(ended, candidates)
        if kept and self._is_over(-kept[0].negative_logprob):
            kept = []
        self.beams = self._extend(kept, candidates)
        return kept

    def _extensions(self, candidates: Sequence[BeamCandidates]) -> Iterator[Extension]:
        for parent, (beam, own) in enumerate(zip(self.beams, candidates, strict=True)):
            for place, (token_id, logprob) in enumerate(zip(own.token_ids, own.logprobs, strict=True)):
                yield Extension(-(beam.cumulative_logprob + logprob), parent, token_id, place)

    def _ends(self, extension: Extension) -> bool:
        return self._length >= self._max_tokens or extension.token_id in self._stop_token_ids

    def _score(self, cumulative_logprob: float, length: int) -> float:
        score: float = cumulative_logprob / length**self._settings.length_penalty
        return score

    def _finish(self, ended: list[Extension], candidates: Sequence[BeamCandidates]) -> None:
        """Collect the hypotheses that are among the best; of equals the earlier ones."""
        merged = self.hypotheses.copy()
        for each in ended:
            beam = self._extended(each, candidates[each.parent], takes_over=False)
            score = self._score(beam.cumulative_logprob, self._length)
            merged.append(Hypothesis(score, beam.cumulative_logprob, beam.token_ids, beam.told))
        self.hypotheses = sorted(merged, key=lambda each: -each.score)[: self._settings.width]

    def _is_over(self, best_logprob: float) -> bool:
        """Whether going on is not to change the hypotheses, `best_logprob` being the best beam's."""
        early_stopping, width = self._settings.early_stopping, self._settings.width
        if len(self.hypotheses) < width:
            return False
        if early_stopping is True:
            return True
        reaches_far = early_stopping == "never" and self._settings.length_penalty > 0
        length = self._max_tokens if reaches_far else self._length
        return self._score(best_logprob, length) <= self.hypotheses[-1].score

    def _extend(self, kept: list[Extension], candidates: Sequence[BeamCandidates]) -> list[Beam]:
        """The new beams. A beam's first extension takes its lists over, so that most steps copy none."""
        extended = []
        parents: set[int] = set()
        for each in kept:
            extended.append(self._extended(each, candidates[each.parent], takes_over=each.parent not in parents))
            parents.add(each.parent)
        return extended

    def _extended(self, extension: Extension, own: BeamCandidates, takes_over: bool) -> Beam:
        beam, length = self.beams[extension.parent], self._length - 1
        token_ids = beam.token_ids if takes_over else beam.token_ids[:length]
        told = beam.told if takes_over else beam.told[:length]
        token_ids.append(extension.token_id)
        told += own.told[extension.place : extension.place + 1]
        return Beam(token_ids, -extension.negative_logprob, told)
