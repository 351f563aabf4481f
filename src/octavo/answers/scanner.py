"""Finding delimiters in an answer's text, while it arrives in pieces.

How the answer was cut never shows: a text that could still begin a delimiter waits, and what is decided is decided as
if the characters had come one by one. Patterns come from checkpoints, so their time is bounded.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex  # type: ignore[import-untyped]

from octavo.answers.delimiters import LONGEST_MATCH, Delimiter

WINDOW = 1024
"""Characters that are searched at once: what is found far ahead may turn out to lie in another section."""
LOOK_BEHIND = 64
"""Characters in front of a place that patterns may look at."""
TIME_FOR_PATTERNS = (0.5, 20e-6)
"""Seconds of processor time that the patterns may take for an answer, and for each character of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A delimiter in the text."""

    start: int
    end: int
    which: int
    """Its place among those that were looked for."""
    captures: Mapping[str, str]


@dataclass(slots=True)
class PatternTime:
    """How long an answer's patterns have taken. One that takes too long is not looked for any more."""

    used_s: float = 0.0
    num_characters: int = 0
    is_over: bool = False

    @property
    def left_s(self) -> float:
        base, each = TIME_FOR_PATTERNS
        return base + each * self.num_characters - self.used_s


@dataclass(slots=True)
class Place:
    """How far a search has come."""

    at: int = 0
    """What lies before holds no delimiter."""
    seen: int = 0
    """What lies before was looked at; a delimiter may have begun at `at`."""

    def move(self, at: int) -> None:
        self.at = self.seen = at


@dataclass(frozen=True, slots=True)
class Scanner:
    """Looks for several delimiters at once. The one that begins first is found, the longest of those."""

    delimiters: Sequence[Delimiter]
    _literals: "re.Pattern[str] | None" = field(init=False)
    _which: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        which: dict[str, int] = {}
        for index, delimiter in enumerate(self.delimiters):
            for literal in delimiter.literals:
                which.setdefault(literal, index)
        longest_first = sorted(which, key=len, reverse=True)
        only_literals = all(delimiter.literals for delimiter in self.delimiters)
        search = re.compile("|".join(map(re.escape, longest_first))) if only_literals and which else None
        object.__setattr__(self, "_literals", search)
        object.__setattr__(self, "_which", which)

    def find(self, text: str, place: Place, is_end: bool, spent: PatternTime) -> Found | None:
        """Look on from a place, which moves to the first character that could begin a delimiter, or to one about
        `WINDOW` further on.

        Args:
            is_end: no more text is coming.
            spent: the time that this answer's patterns have taken.
        """
        if not self.delimiters or (self._literals is None and spent.is_over):
            place.move(min(len(text), place.at + WINDOW))
            return None
        if self._literals is not None:
            return self._find_literal(self._literals, text, place, is_end)
        try:
            return self._find_pattern(text, place, is_end, spent)
        except TimeoutError:
            spent.is_over = True
            place.move(len(text))
            return None

    def _find_literal(self, search: "re.Pattern[str]", text: str, place: Place, is_end: bool) -> Found | None:
        end = min(len(text), place.at + WINDOW)
        match = search.search(text, place.at, end)
        held = end if is_end and end == len(text) else self._first_prefix(text, place.at, end)
        if match is None or match.start() >= held:
            place.at, place.seen = held, end
            return None
        place.move(match.start())
        return Found(match.start(), match.end(), self._which[match[0]], {})

    def _first_prefix(self, text: str, start: int, end: int) -> int:
        """The first place from which on the text could go on to be a literal, if it ended at `end`."""
        longest = max(map(len, self._which))
        for at in range(max(start, end - longest + 1), end):
            tail = text[at:end]
            if any(len(literal) > len(tail) and literal.startswith(tail) for literal in self._which):
                return at
        return end

    def _find_pattern(self, text: str, place: Place, is_end: bool, spent: PatternTime) -> Found | None:
        if place.seen == place.at and not self._skip(text, place, is_end, spent):
            return None
        while place.seen < len(text):
            place.seen = min(place.seen + 1, len(text))
            found, held = self._try(text, place.at, place.seen, spent)
            if found is not None:
                place.move(found.start)
                return found
            if held - place.at or place.seen - held > LONGEST_MATCH:
                place.at = max(held, place.seen - LONGEST_MATCH)
                if place.at == place.seen:
                    return None
        return self._find_at_end(text, place, spent) if is_end else None

    def _skip(self, text: str, place: Place, is_end: bool, spent: PatternTime) -> bool:
        """Pass over a text in which no delimiter begins. Returns whether one may begin at the place now."""
        end = min(len(text), place.at + WINDOW)
        matches = [self._search(d, text, place.at, end, spent, partial=True) for d in self.delimiters]
        place.move(min((match.start() for match in matches if match is not None), default=end))
        return place.at < len(text) or (is_end and end == len(text))

    def _try(self, text: str, start: int, seen: int, spent: PatternTime) -> tuple[Found | None, int]:
        """What is certain once `seen` characters have come: a delimiter, or else where one may have begun."""
        found: list[Found] = []
        held = seen
        for which, delimiter in enumerate(self.delimiters):
            match = self._search(delimiter, text, start, seen, spent, partial=True)
            if match is None:
                continue
            if match.partial or not _is_final(delimiter, match, text, seen):
                held = min(held, match.start())
            else:
                found.append(_found(match, which))
        best = min(found, key=lambda one: (one.start, -one.end), default=None)
        return (best, held) if best is not None and best.start < held else (None, held)

    def _find_at_end(self, text: str, place: Place, spent: PatternTime) -> Found | None:
        matches = [
            (self._search(delimiter, text, place.at, len(text), spent, partial=False), which)
            for which, delimiter in enumerate(self.delimiters)
        ]
        found = [_found(match, which) for match, which in matches if match is not None and match[0]]
        best = min(found, key=lambda one: (one.start, -one.end), default=None)
        place.move(len(text) if best is None else best.start)
        return best

    def _search(
        self, delimiter: Delimiter, text: str, start: int, end: int, spent: PatternTime, *, partial: bool
    ) -> "regex.Match[str] | None":
        left = spent.left_s
        if left <= 0:
            raise TimeoutError
        began = time.thread_time()
        try:
            return delimiter.pattern.search(text, start, end, partial=partial, timeout=left)
        finally:
            spent.used_s += time.thread_time() - began


class Stretch:
    """Text that has come and was not handed on yet, and how far it was searched.

    Args:
        spent: the time that the answer's patterns have taken.
    """

    def __init__(self, spent: PatternTime) -> None:
        self._spent = spent
        self._text = ""
        self._start = 0
        self._num_cut = 0
        self._place = Place()

    def feed(self, text: str) -> None:
        """What comes next."""
        cut = max(0, self._start - LOOK_BEHIND)
        self._text = self._text[cut:] + text
        self._start -= cut
        self._num_cut += cut
        self._place = Place(self._place.at - cut, self._place.seen - cut)

    def find(self, scanner: Scanner, is_end: bool) -> Found | None:
        """As `Scanner.find`."""
        return scanner.find(self._text, self._place, is_end, self._spent)

    def would_find(self, scanner: Scanner) -> bool:
        """Whether the text, if it ended here, would end with a delimiter."""
        found = scanner.find(self._text, Place(self._place.at, self._place.seen), True, self._spent)
        return found is not None and found.end == len(self._text)

    @property
    def is_searched(self) -> bool:
        """Whether no more can be found until there is more text."""
        return self._place.seen == len(self._text)

    @property
    def clear_up_to(self) -> int:
        """The place up to which the text holds no delimiter."""
        return self._place.at

    def take_until(self, at: int) -> str:
        """All before a place, where the search goes on if it has not come so far."""
        text, self._start = self._text[self._start : at], at
        if self._place.at < at:
            self._place.move(at)
        return text

    def go_on(self, at: int) -> None:
        """Search on from a place, at which the text that was not handed on begins."""
        self._start = at
        self._place.move(at)

    def position(self, at: int) -> int:
        """A place, counted from the first character that has come."""
        return self._num_cut + at

    @property
    def at(self) -> int:
        """The place at which the text begins that was not handed on."""
        return self._start


def _found(match: "regex.Match[str]", which: int) -> Found:
    captures: dict[str, Any] = match.groupdict()
    return Found(match.start(), match.end(), which, {k: v for k, v in captures.items() if v is not None})


def _is_final(delimiter: Delimiter, match: "regex.Match[str]", text: str, seen: int) -> bool:
    """Whether a match stays what it is however the text goes on."""
    if match.end() == seen:
        return not delimiter.may_grow(match[0])
    if delimiter.literals:
        return True
    # A pattern may lean on the end of the text (`$`): with another character behind it must match the same.
    begin = max(0, match.start() - LOOK_BEHIND)
    again = delimiter.pattern.match(text[begin:seen] + "\0", match.start() - begin)
    return again is not None and again.end() - again.start() == match.end() - match.start()
