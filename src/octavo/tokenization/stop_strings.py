"""Finding the texts that end a sequence, while its text arrives in pieces."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from octavo.tokenization.regex_search import Automaton, RegexSearch


class StopChecker:
    """Passes text through, holding back no more of its end than could begin a stop.

    The stop that is complete first in the text ends it; of those complete at the same character, the longest. So the
    result does not depend on how the text was cut into pieces, and no text past the match is ever needed.
    A character costs a few operations for each stop (Knuth, Morris and Pratt, 1977), whatever came before it.

    A piece may be hidden, as special tokens are: it is not passed on, and only stops that spell special tokens look at
    it. The others see the text as if it was not there.

    What matches a regex is a stop as well: the one that ends first, and of those the longest. A regex that could go on
    for ever holds back all from where it began.

    Args:
        stops: texts to look for, none of them empty.
        include: end the text after the match instead of before it.
        special_stops: those of the stops that look at hidden pieces.
        regexes: look at what is shown.
    """

    def __init__(
        self,
        stops: Sequence[str],
        include: bool,
        special_stops: Collection[str] = (),
        regexes: Automaton | None = None,
    ) -> None:
        self._patterns: list[_Pattern] = [_Text(stop, stop in special_stops) for stop in stops]
        if regexes is not None:
            self._patterns.append(_Regexes(regexes))
        self._includes_stop = include
        self._held = _HeldText()

    @property
    def sees_hidden(self) -> bool:
        """Whether hidden pieces are to be pushed at all."""
        return any(pattern.sees_hidden for pattern in self._patterns)

    def push(self, text: str, may_end: bool = True, is_hidden: bool = False) -> tuple[str, str | None]:
        """Take the next piece of text, none after a match.

        Args:
            may_end: a stop that is complete within this piece counts; one that only begins here always may, later.
            is_hidden: the piece is not shown.

        Returns:
            The text that is safe to pass on now, and the stop (its text, or its regex) that ended it or None.
        """
        if not self._patterns:
            return "" if is_hidden else text, None
        looking = [pattern for pattern in self._patterns if pattern.sees_hidden or not is_hidden]
        for index, character in enumerate(text):
            completed = [stop for pattern in looking if (stop := pattern.advance(character)) is not None]
            if completed and may_end:
                self._held.append(text[: index + 1], is_hidden)
                return self._end(max(completed, key=lambda stop: stop.length))
        self._held.append(text, is_hidden)
        num_kept = max(self._held.reach(pattern.num_matched, pattern.sees_hidden) for pattern in self._patterns)
        return self._held.take(num_kept), None

    def finish(self) -> str:
        """Release what was held back: no more text is coming, so it begins no stop."""
        return self._held.take(0)

    def _end(self, stop: "_Stop") -> tuple[str, str]:
        before = self._held.take(self._held.reach(stop.length, stop.sees_hidden))
        matched = self._held.rest(stop.sees_hidden)
        self._held = _HeldText()
        return before + matched if self._includes_stop else before, stop.name


class _Stop(NamedTuple):
    """One that is complete."""

    name: str
    length: int
    """In characters, the hidden ones among them counted where it sees them."""
    sees_hidden: bool


class _Pattern(Protocol):
    """What is looked for, and how much of it the text ends with."""

    @property
    def sees_hidden(self) -> bool: ...

    @property
    def num_matched(self) -> int:
        """Characters at the end that a stop could begin with."""
        ...

    def advance(self, character: str) -> _Stop | None:
        """Take one character; returns the stop that it completes."""
        ...


class _Regexes:
    """Those of a request, together."""

    sees_hidden = False

    def __init__(self, automaton: Automaton) -> None:
        self._sources = automaton.sources
        self._search = RegexSearch(automaton)

    @property
    def num_matched(self) -> int:
        return self._search.num_matched

    def advance(self, character: str) -> _Stop | None:
        match = self._search.advance(character)
        return None if match is None else _Stop(self._sources[match.regex], match.length, False)


class _Text:
    """A stop that is given as text."""

    def __init__(self, stop: str, sees_hidden: bool) -> None:
        self._stop = stop
        self.sees_hidden = sees_hidden
        self.num_matched = 0
        # For each prefix, the longest shorter prefix that ends it: where matching goes on after a miss. Only as far as
        # the text has matched so far, since a stop may be much longer than any text.
        self._borders = [0]

    def advance(self, character: str) -> _Stop | None:
        stop, matched = self._stop, self.num_matched
        while matched and stop[matched] != character:
            matched = self._border(matched)
        matched += stop[matched] == character
        is_complete = matched == len(stop)
        self.num_matched = self._border(matched) if is_complete else matched
        return _Stop(stop, len(stop), self.sees_hidden) if is_complete else None

    def _border(self, length: int) -> int:
        stop, borders = self._stop, self._borders
        while len(borders) < length:
            border, character = borders[-1], stop[len(borders)]
            while border and stop[border] != character:
                border = borders[border - 1]
            borders.append(border + (stop[border] == character))
        return borders[length - 1]


class _HeldText:
    """Text held back, some of its pieces hidden."""

    def __init__(self) -> None:
        self._text = ""
        self._marks = ""
        """One for each character, "h" for a hidden one; empty where none is hidden."""

    def append(self, text: str, is_hidden: bool) -> None:
        if is_hidden or self._marks:
            self._marks = self._marks.ljust(len(self._text)) + ("h" if is_hidden else " ") * len(text)
        self._text += text

    def reach(self, count: int, sees_hidden: bool) -> int:
        """How many characters at the end hold the last `count`, hidden ones counted or not."""
        if sees_hidden or not self._marks:
            return count
        place = len(self._marks)
        while count:
            place -= 1
            count -= self._marks[place] == " "
        return len(self._marks) - place

    def rest(self, with_hidden: bool) -> str:
        """What is left, with what is hidden of it or without."""
        return self._text if with_hidden else self.take(0)

    def take(self, num_left: int) -> str:
        """Give out what is shown of all but the last `num_left` characters."""
        place = len(self._text) - num_left
        text, self._text = self._text[:place], self._text[place:]
        marks, left = self._marks[:place], self._marks[place:]
        self._marks = left if "h" in left else ""
        return "".join(character for character, mark in zip(text, marks, strict=True) if mark == " ") if marks else text
