"""Finding what matches a regex, while text arrives in pieces: an automaton with a bound on what a character costs.

It follows all ways to match at once (Thompson, 1968), each from where it began, and keeps the transitions that it has
made. So no regex takes more than a few operations for each of its parts, however it is written.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from octavo.errors import RequestError
from octavo.tokenization.regex_syntax import Chain, Characters, Choice, Repeat, Start, Tree, parse

MAX_PARTS = 256
"""Of all regexes of one request, each part as often as it is repeated: a character costs some tenths of a microsecond
for each."""
MAX_KEPT = 2**16
"""Places in all transitions that an automaton keeps."""

Has = Callable[[str], bool]


class Match(NamedTuple):
    """What has been found."""

    regex: int
    """Which of the automaton's regexes."""
    length: int
    """Characters up to the present one."""


class _Instruction(NamedTuple):
    """A place of a program. Places that take a character go on to the next one."""

    has: Has | None = None
    """Takes a character of a set."""
    goes_to: tuple[int, ...] = ()
    """Takes nothing and goes on to each of these."""
    start: Start | None = None
    """Takes nothing and goes on to the next place, at the beginning of a text or a line."""
    matched: int | None = None
    """The regex that is complete here."""


class _Transition(NamedTuple):
    """What one character makes of the places that are waited at."""

    places: tuple[int, ...]
    sources: tuple[int, ...]
    """For each place the index of the one that it was reached from; -1 where a match begins only behind the
    character."""
    found: tuple[int, int] | None
    """The regex that is complete, and the index of the place that it was reached from."""


class Automaton:
    """Some regexes, and the transitions made so far. Any number of texts may be searched with it at once.

    Args:
        sources: regexes as Python's `re` has them.

    Raises:
        RequestError: one is no regex, matches the empty text, or cannot be followed; or all are too large.
    """

    def __init__(self, sources: tuple[str, ...]) -> None:
        self.sources = sources
        self._program: list[_Instruction] = []
        self._num_parts = 0
        self._transitions: dict[tuple[tuple[int, ...], str], _Transition] = {}
        self._num_kept = 0
        self._first_places = [self._compiled(number, parse(source)) for number, source in enumerate(sources)]
        for source, place in zip(sources, self._first_places, strict=True):
            reached: list[int] = []
            if self._reach(place, reached, set(), is_start=True, is_line=True) is not None:
                raise RequestError(
                    f"stop_regex has {source!r:.200}, which matches the empty text: nothing could follow"
                )
        self.first = tuple(self._begun(is_start=True, is_line=True))
        """The places that a text is waited for at."""

    def step(self, places: tuple[int, ...], character: str) -> _Transition:
        """Where a character leads.

        Args:
            places: those that are waited at, in the order of where their matches began.
        """
        known = self._transitions.get((places, character))
        if known is None:
            known = self._transition(places, character)
            if self._num_kept > MAX_KEPT:
                self._transitions.clear()
                self._num_kept = 0
            self._transitions[places, character] = known
            self._num_kept += len(places) + 2 * len(known.places)
        return known

    def _transition(self, places: tuple[int, ...], character: str) -> _Transition:
        is_line = character == "\n"
        reached: list[int] = []
        sources: list[int] = []
        seen: set[int] = set()
        found = None
        for index, place in enumerate(places):
            has = self._program[place].has
            if has is not None and has(character):
                matched = self._reach(place + 1, reached, seen, is_start=False, is_line=is_line)
                if matched is not None and found is None:
                    found = (matched, index)
                sources += [index] * (len(reached) - len(sources))
        for place in self._begun(is_start=False, is_line=is_line):
            if place not in seen:
                reached.append(place)
                sources.append(-1)
        return _Transition(tuple(reached), tuple(sources), found)

    def _begun(self, *, is_start: bool, is_line: bool) -> list[int]:
        """The places at which a match that begins here is waited for."""
        reached: list[int] = []
        seen: set[int] = set()
        for place in self._first_places:
            self._reach(place, reached, seen, is_start=is_start, is_line=is_line)
        return reached

    def _reach(self, place: int, reached: list[int], seen: set[int], *, is_start: bool, is_line: bool) -> int | None:
        """Go from a place to all that take a character, and note those not seen yet. Returns the regex that is
        complete, if one is."""
        matched = None
        waiting = [place]
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            instruction = self._program[place]
            if instruction.has is not None:
                reached.append(place)
            elif instruction.matched is not None:
                matched = instruction.matched if matched is None else min(matched, instruction.matched)
            elif instruction.start is None:
                waiting += instruction.goes_to
            elif is_start or (is_line and instruction.start.of_lines):
                waiting.append(place + 1)
        return matched

    def _compiled(self, number: int, tree: Tree) -> int:
        """Append a regex to the program. Returns its first place."""
        first = len(self._program)
        self._append(tree)
        self._program.append(_Instruction(matched=number))
        return first

    def _append(self, tree: Tree) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise RequestError(
                f"stop_regex has over {MAX_PARTS} parts, each counted as often as it is repeated: that is the most"
            )
        if isinstance(tree, Characters):
            self._program.append(_Instruction(has=tree.has))
        elif isinstance(tree, Start):
            self._program.append(_Instruction(start=tree))
        elif isinstance(tree, Chain):
            for part in tree.parts:
                self._append(part)
        elif isinstance(tree, Choice):
            self._append_choice(tree)
        else:
            self._append_repeat(tree)

    def _append_choice(self, tree: Choice) -> None:
        fork = self._append_blank()
        firsts, ends = [], []
        for option in tree.options:
            firsts.append(len(self._program))
            self._append(option)
            ends.append(self._append_blank())
        self._program[fork] = _Instruction(goes_to=tuple(firsts))
        for end in ends:
            self._program[end] = _Instruction(goes_to=(len(self._program),))

    def _append_repeat(self, tree: Repeat) -> None:
        for _ in range(tree.low):
            self._append(tree.part)
        if tree.high is None:
            fork = self._append_blank()
            self._append(tree.part)
            self._program.append(_Instruction(goes_to=(fork,)))
            self._program[fork] = _Instruction(goes_to=(fork + 1, len(self._program)))
            return
        forks = []
        for _ in range(tree.high - tree.low):
            forks.append(self._append_blank())
            self._append(tree.part)
        for fork in forks:
            self._program[fork] = _Instruction(goes_to=(fork + 1, len(self._program)))

    def _append_blank(self) -> int:
        """A place that is filled in later."""
        self._program.append(_Instruction())
        return len(self._program) - 1


@lru_cache(maxsize=32)
def automaton_of(sources: tuple[str, ...]) -> Automaton:
    """The automaton of some regexes, which sequences and requests share. Raises as `Automaton`."""
    return Automaton(sources)


class RegexSearch:
    """A search through one text, character by character."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._places = automaton.first
        self._begins = [0] * len(self._places)
        """For each place how many characters came before its match began, the earliest first."""
        self._num_characters = 0

    @property
    def num_matched(self) -> int:
        """Characters at the end of the text that may be the beginning of a match."""
        return self._num_characters - self._begins[0] if self._begins else 0

    def advance(self, character: str) -> Match | None:
        """Take one character. Returns the match that it completes, of several the longest."""
        places, sources, found = self._automaton.step(self._places, character)
        begins = self._begins
        self._num_characters += 1
        self._places = places
        self._begins = [self._num_characters if source < 0 else begins[source] for source in sources]
        if found is None:
            return None
        regex, source = found
        return Match(regex, self._num_characters - begins[source])
