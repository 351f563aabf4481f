"""The automaton knows the longest suffix that also ends earlier, and where."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from octavo.execution.suffix_automaton import SuffixAutomaton


def longest_match(text: Sequence[int]) -> int:
    """The length of the longest suffix that also ends earlier, by comparing all."""
    ends = range(1, len(text))
    return max(
        (length for end in ends for length in range(1, end + 1) if text[end - length : end] == text[-length:]),
        default=0,
    )


@given(st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size), max_size=40)))
def test_the_match_is_the_longest_suffix_that_ends_earlier_too(text: list[int]) -> None:
    automaton = SuffixAutomaton()
    for count, token in enumerate(text, 1):
        automaton.append(token)
        length, follows = automaton.match_length, automaton.follows
        assert length == longest_match(text[:count])
        if length:
            assert length <= follows < count
            assert text[follows - length : follows] == text[count - length : count]


def test_of_several_earlier_places_the_one_that_was_a_match_last_is_told() -> None:
    automaton = SuffixAutomaton()
    for token in [1, 2, 3, 9, 1, 2, 4, 9, 1, 2]:
        automaton.append(token)
    assert automaton.tokens[automaton.follows] == 4
