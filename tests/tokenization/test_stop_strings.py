"""A stop text ends the text wherever the pieces are cut, and nothing that could be part of one gets out early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.tokenization.stop_strings import StopChecker

alphabet = st.sampled_from("ab한")
stop_lists = st.lists(st.text(alphabet, min_size=1, max_size=6), max_size=4)
pieces_of_text = st.lists(st.text(alphabet, max_size=7), max_size=12)


def naive(text: str, stops: list[str], include: bool, ends_after: int = 0) -> tuple[str, str | None]:
    """The whole text at once: the match that ends first after so many characters, the longest that ends there."""
    for end in range(ends_after + 1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def run(pieces: list[str], stops: list[str], include: bool, num_endless: int = 0) -> tuple[str, str | None]:
    """`num_endless` pieces come first in which no stop may end."""
    checker = StopChecker(stops, include)
    emitted = ""
    for index, piece in enumerate(pieces):
        safe, stop = checker.push(piece, may_end=index >= num_endless)
        emitted += safe
        if stop is not None:
            return emitted + checker.finish(), stop
    return emitted + checker.finish(), None


@given(pieces=pieces_of_text, stops=stop_lists, include=st.booleans())
def test_the_result_is_that_of_searching_the_whole_text(pieces: list[str], stops: list[str], include: bool) -> None:
    assert run(pieces, stops, include) == naive("".join(pieces), stops, include)


@given(pieces=pieces_of_text, stops=stop_lists, include=st.booleans(), num_endless=st.integers(0, 12))
def test_a_stop_that_may_not_end_yet_is_passed_over_and_later_ones_are_not(
    pieces: list[str], stops: list[str], include: bool, num_endless: int
) -> None:
    ends_after = len("".join(pieces[:num_endless]))
    assert run(pieces, stops, include, num_endless) == naive("".join(pieces), stops, include, ends_after)


@given(pieces=pieces_of_text, stops=stop_lists)
def test_exactly_the_longest_possible_beginning_of_a_stop_is_held_back(pieces: list[str], stops: list[str]) -> None:
    checker = StopChecker(stops, include=False)
    seen = emitted = ""
    for piece in pieces:
        safe, stop = checker.push(piece)
        seen, emitted = seen + piece, emitted + safe
        if stop is not None:
            return
        tails = [seen[start:] for start in range(len(seen))]
        held = next((tail for tail in tails if any(stop.startswith(tail) for stop in stops)), "")
        assert emitted + held == seen


@pytest.mark.parametrize(
    ("pieces", "stops", "before", "stop"),
    [
        (["one two", " three"], ["two", "one"], "", "one"),
        (["a\n", "\nb"], ["\n\n"], "a", "\n\n"),
        (["aab"], ["aab", "ab", "b"], "", "aab"),
        (["x<", "|end", "|>y"], ["<|end|>"], "x", "<|end|>"),
        (["x<", "|end", "less"], ["<|end|>"], "x<|endless", None),
        (["ababac"], ["abac"], "ab", "abac"),
        (["정지", "합니다"], ["지합"], "정", "지합"),
        (["abcd"], ["abcd", "bc"], "a", "bc"),
    ],
)
def test_the_text_ends_before_the_first_complete_stop(
    pieces: list[str], stops: list[str], before: str, stop: str | None
) -> None:
    assert run(pieces, stops, include=False) == (before, stop)
    assert run(pieces, stops, include=True) == (before + (stop or ""), stop)


def test_text_without_stops_passes_at_once() -> None:
    assert StopChecker([], include=False).push("anything") == ("anything", None)


def test_a_push_costs_no_more_for_the_text_before_it() -> None:
    class CountedText(str):
        """Counts the characters that are looked at in a stop text."""

        looks = 0

        def __getitem__(self, key: object) -> str:
            CountedText.looks += 1
            return super().__getitem__(key)  # type: ignore[index]

    stop = CountedText("a" * 50 + "b")
    checker = StopChecker([stop], include=False)
    CountedText.looks = 0
    for _ in range(1000):
        checker.push("a" * 10)
    assert CountedText.looks <= 1000 * (2 * 10) + 2 * len(stop) + 10 * 1000
