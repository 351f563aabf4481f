"""Regexes are found where `re` finds them, wherever the pieces are cut, and none of them takes long."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.errors import RequestError
from octavo.tokenization.regex_search import MAX_KEPT, MAX_PARTS, Automaton, RegexSearch, automaton_of
from octavo.tokenization.stop_strings import StopChecker

REGEXES = [
    "a+b",
    "(ab|ba)*c",
    r"\n\n",
    r"(?i)Ab\d{2,3}",
    "^a|b^a",
    "(?m)^x",
    r"[^a-c]\w",
    r".\.",
    "(?s)a.b",
    "(a?){3}b",
    "(?:a|b|)c+?",
    "[]a-]b",
    r"\x61\u0062",
    "a{,2}b",
    "a{2}",
    "x{y",
    "(?i:A)b",
    "(a*)*b",
    r"\Aab",
    "(?P<name>ab){2,}",
    r"[\d\s]x",
    "(?i)[x-z]É",
    "(?i)a(?-i:B)b",
]
texts = st.lists(st.sampled_from("aaabbbcABx1\n.y{-]éÉ"), max_size=14).map("".join)


def first_match(text: str, regexes: list[str]) -> tuple[int, int] | None:
    """Where a match ends first, and the earliest place where one that ends there begins."""
    compiled = [re.compile(regex) for regex in regexes]
    for end in range(1, len(text) + 1):
        for start in range(end):
            if any(regex.fullmatch(text, start, end) for regex in compiled):
                return start, end
    return None


@given(text=texts, regexes=st.lists(st.sampled_from(REGEXES), min_size=1, max_size=3, unique=True))
def test_matches_are_those_of_the_standard_library(text: str, regexes: list[str]) -> None:
    search = RegexSearch(automaton_of(tuple(regexes)))
    found = None
    for number, character in enumerate(text):
        match = search.advance(character)
        if match is not None:
            found = (number + 1 - match.length, number + 1)
            assert re.compile(regexes[match.regex]).fullmatch(text, *found)
            break
    assert found == first_match(text, regexes)


@given(
    pieces=st.lists(texts, max_size=4),
    regexes=st.lists(st.sampled_from(REGEXES), min_size=1, max_size=2, unique=True),
    include=st.booleans(),
)
def test_a_text_ends_before_or_behind_the_match_wherever_its_pieces_are_cut(
    pieces: list[str], regexes: list[str], include: bool
) -> None:
    checker = StopChecker([], include, regexes=automaton_of(tuple(regexes)))
    text, emitted, stop = "".join(pieces), "", None
    for piece in pieces:
        shown, stop = checker.push(piece)
        emitted += shown
        if stop is not None:
            break
    emitted += checker.finish()
    found = first_match(text, regexes)
    assert (stop is None) == (found is None)
    assert stop is None or stop in regexes
    assert emitted == (text if found is None else text[: found[include]])


def test_only_what_could_begin_a_match_is_held_back() -> None:
    checker = StopChecker([], False, regexes=automaton_of((r"\n\d+\.",)))
    assert checker.push("one\n") == ("one", None)
    assert checker.push("1") == ("", None)
    assert checker.push("2 two\n\n3") == ("\n12 two\n", None)
    assert checker.push(". three") == ("", r"\n\d+\.")


def test_stops_and_regexes_are_looked_for_together() -> None:
    def first(stop: str, regex: str) -> tuple[str, str | None]:
        return StopChecker([stop], False, regexes=automaton_of((regex,))).push("say one two three")

    assert first("two", "one") == ("say ", "one")
    assert first("one", "t.o") == ("say ", "one")
    assert first("one", r"y \w{3}") == ("sa", r"y \w{3}"), "of those that end together the longest"
    assert first("say one", "e t") == ("", "say one")


def test_a_match_that_may_not_end_yet_may_go_on() -> None:
    checker = StopChecker([], False, regexes=automaton_of(("b+",)))
    assert checker.push("ab", may_end=False)[1] is None
    assert checker.push("b") == ("", "b+")


def test_regexes_see_what_is_shown_only() -> None:
    checker = StopChecker(["<end>"], True, ["<end>"], automaton_of(("ab|end",)))
    assert checker.push("a")[1] is None
    assert checker.push("<en", is_hidden=True)[1] is None
    assert checker.push("b") == ("ab", "ab|end")


@pytest.mark.parametrize(
    ("regex", "words"),
    [
        ("(", "without its )"),
        (")", "unmatched )"),
        ("[a", "without its ]"),
        ("a**", "quantifier behind another"),
        ("*a", "nothing to repeat"),
        ("a{3,2}", "at least 3 and at most 2"),
        ("[b-a]", "does not rise"),
        (r"\q", "stands for nothing"),
        ("\\", "an end where something must follow"),
        ("(?=a)", "looks ahead or behind"),
        ("(?<!a)b", "looks ahead or behind"),
        (r"(a)\1", "back reference"),
        ("(?P<x>a)(?P=x)", "cannot follow"),
        ("a$", "asks what comes next"),
        (r"\bstop\b", "asks what comes next"),
        ("a*+", "possessive"),
        ("(?>a)b", "cannot follow"),
        ("(?x)a b", "the flag x"),
        ("", "matches the empty text"),
        ("a?", "matches the empty text"),
        ("^", "matches the empty text"),
        ("a|", "matches the empty text"),
        ("((((a{9}){9}){9}){9}){9}", f"over {MAX_PARTS} parts"),
        ("(?:){99999999999}x", f"over {MAX_PARTS} parts"),
        ("(" * 200 + "a" + ")" * 200, "within one another"),
        ("a" * 10_000, "10000 characters"),
    ],
)
def test_what_is_no_regex_or_cannot_be_followed_is_refused(regex: str, words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)) as refused:
        Automaton((regex,))
    assert "stop_regex" in str(refused.value)
    assert len(str(refused.value)) < 400


def test_all_regexes_of_a_request_are_bounded_together() -> None:
    Automaton(("a{100}", "b{100}"))
    with pytest.raises(RequestError, match=f"over {MAX_PARTS} parts"):
        Automaton(("a{100}", "b{100}", "c{100}"))


@pytest.mark.parametrize("regex", ["(a|a)*b", "(a*)*b", "(a?){80}b", "(.*)(.*)(.*)(.*)b", "(a|b|c)*a(a|b|c){30}x"])
def test_a_regex_that_would_take_a_backtracker_for_ever_takes_no_more_than_its_parts(regex: str) -> None:
    automaton = Automaton((regex,))
    search = RegexSearch(automaton)
    text = "aaacabac" * 200
    for character in text if regex.endswith("x") else "a" * 2000:
        assert search.advance(character) is None
        assert len(search._places) <= len(automaton._program)
    assert automaton._num_kept <= MAX_KEPT + 3 * len(automaton._program)
