"""The search's own rules, on candidates written by hand."""

import math

from octavo.outputs import BeamCandidates, TokenLogprobs
from octavo.sampling_params import Beams
from octavo.scheduling.beam_search import BeamSearch

STOP = 0
SOME = BeamCandidates([7, 8, 9], [-1.0, -2.0, -3.0])


def search(width: int, max_tokens: int = 4, **settings) -> BeamSearch:
    return BeamSearch(Beams(width=width, **settings), max_tokens, frozenset({STOP}))


def test_equals_go_by_the_beams_place_and_then_by_the_token():
    of_two = search(2)
    of_two.advance([BeamCandidates([5, 6], [-1.0, -1.0])])
    kept = of_two.advance([BeamCandidates([8, 9], [-1.0, -1.0]), BeamCandidates([3, 4], [-1.0, -1.0])])
    assert [(each.parent, each.token_id) for each in kept] == [(0, 8), (0, 9)]
    assert [beam.token_ids for beam in of_two.beams] == [[5, 8], [5, 9]]


def test_a_stop_counts_only_among_the_best_as_many_as_the_search_is_wide():
    of_two = search(2)
    of_two.advance([BeamCandidates([5, 6, STOP], [-1.0, -2.0, -3.0])])
    assert of_two.hypotheses == []
    of_two.advance([BeamCandidates([STOP, 6, 7], [-1.0, -2.0, -3.0]), BeamCandidates([6], [-9.0])])
    assert [each.token_ids for each in of_two.hypotheses] == [[5, STOP]]


def test_the_penalty_counts_the_end_of_sequence_token():
    alone = search(1, length_penalty=2.0)
    alone.advance([BeamCandidates([5, STOP], [-1.0, -2.0])])
    alone.advance([BeamCandidates([STOP, 5], [-1.0, -2.0])])
    assert alone.hypotheses[0].score == -2.0 / 2**2


def test_where_masks_leave_fewer_the_beams_are_fewer():
    of_four = search(4, max_tokens=2)
    assert len(of_four.advance([BeamCandidates([5, 6], [-1.0, -2.0])])) == 2
    assert of_four.advance([BeamCandidates([5], [-1.0]), BeamCandidates([], [])]) == []
    assert [each.token_ids for each in of_four.hypotheses] == [[5, 5]]


def test_a_search_whose_beams_have_no_candidates_is_over():
    of_two = search(2)
    assert of_two.advance([BeamCandidates([], [])]) == []
    assert of_two.beams == []


def test_what_is_told_of_tokens_goes_with_their_beams():
    def candidates(first: int) -> BeamCandidates:
        told = [TokenLogprobs(first + i, -1.0 - i, i + 1, [], []) for i in range(3)]
        return BeamCandidates([first, first + 1, first + 2], [-1.0, -2.0, -3.0], told)

    of_three = search(3, max_tokens=3)
    width = 1
    while width:
        width = len(of_three.advance([candidates(10 * (i + 1)) for i in range(width)]))
    for each in of_three.hypotheses:
        assert [entry.token_id for entry in each.told] == each.token_ids
        assert math.isclose(sum(entry.logprob for entry in each.told), each.cumulative_logprob)
