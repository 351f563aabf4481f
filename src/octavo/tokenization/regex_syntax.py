"""Regexes of Python's `re`, as far as an automaton can follow them: read into a tree."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from octavo.errors import RequestError

MAX_CHARACTERS = 1000
"""Of one regex."""
MAX_DEPTH = 32
"""Groups within one another."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set."""

    ranges: tuple[tuple[str, str], ...] = ()
    """First and last of each."""
    kinds: tuple[Callable[[str], bool], ...] = ()
    is_negated: bool = False
    ignores_case: bool = False

    def has(self, character: str) -> bool:
        """Whether a character is in the set."""
        found = self._lists(character)
        if self.ignores_case and not found:
            cases = (character.lower(), character.upper())
            found = any(len(other) == 1 and self._lists(other) for other in cases)
        return found != self.is_negated

    def _lists(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) or any(
            kind(character) for kind in self.kinds
        )


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of the text, or of any line."""

    of_lines: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """Parts one behind another."""

    parts: tuple["Tree", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several."""

    options: tuple["Tree", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part several times."""

    part: "Tree"
    low: int
    high: int | None
    """None is any number."""


Tree = Characters | Start | Chain | Choice | Repeat


@dataclass(frozen=True, slots=True)
class _Flags:
    i: bool = False
    """Cases are alike."""
    m: bool = False
    """`^` is the beginning of any line."""
    s: bool = False
    """`.` is a newline, too."""
    u: bool = True
    """As always with text."""


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_KINDS: Mapping[str, Callable[[str], bool]] = MappingProxyType(
    {
        "d": str.isdecimal,
        "s": str.isspace,
        "w": _is_word,
        "D": lambda character: not character.isdecimal(),
        "S": lambda character: not character.isspace(),
        "W": lambda character: not _is_word(character),
    }
)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_NUM_DIGITS = {"x": 2, "u": 4, "U": 8}
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}", re.ASCII)
_GROUP = re.compile(r"\?(?:P<\w+>|([a-zA-Z]*)(?:-([a-zA-Z]+))?:)")
_GLOBAL_FLAGS = re.compile(r"\(\?([a-zA-Z]+)\)")


def parse(source: str) -> Tree:
    """The tree of a regex.

    Raises:
        RequestError: it is no regex, too large, or an automaton cannot follow it; the message says what and where.
    """
    if len(source) > MAX_CHARACTERS:
        raise RequestError(f"stop_regex has a regex of {len(source)} characters, and {MAX_CHARACTERS} are the most")
    return _Parser(source).whole()


class _Parser:
    """Reads from the front; `_place` is how far it has come."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._place = 0
        self._depth = 0

    def whole(self) -> Tree:
        flags = _Flags()
        if found := _GLOBAL_FLAGS.match(self._source):
            flags = self._flags(flags, found[1], True)
            self._place = found.end()
        tree = self._choice(flags)
        if self._place < len(self._source):
            raise self._error("an unmatched )")
        return tree

    def _choice(self, flags: _Flags) -> Tree:
        options = [self._chain(flags)]
        while self._take("|"):
            options.append(self._chain(flags))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _chain(self, flags: _Flags) -> Tree:
        parts: list[Tree] = []
        while self._next not in ("", "|", ")"):
            parts.append(self._repeated(self._atom(flags)))
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _repeated(self, part: Tree) -> Tree:
        counts = self._counts()
        if counts is None:
            return part
        if isinstance(part, Start):
            raise self._error("a repeated ^")
        low, high = counts
        if high is not None and high < low:
            raise self._error(f"a repetition of at least {low} and at most {high} times")
        if self._take("+"):
            raise self._error("a possessive quantifier, which an automaton cannot follow")
        self._take("?")  # a lazy one has the same matches
        if self._counts() is not None:
            raise self._error("a quantifier behind another")
        return Repeat(part, low, high)

    def _counts(self) -> tuple[int, int | None] | None:
        """A quantifier, and past it; None where there is none."""
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        found = _COUNT.match(self._source, self._place)
        if found is None or not (found[1] or found[3]):  # without a number these are characters
            return None
        self._place = found.end()
        low = int(found[1] or 0)
        return low, (int(found[3]) if found[3] else None) if found[2] else low

    def _atom(self, flags: _Flags) -> Tree:
        character = self._advance()
        if character == "(":
            return self._group(flags)
        if character == "[":
            return self._class(flags)
        if character == ".":
            return Characters((("\n", "\n"),) if not flags.s else (), is_negated=True)
        if character == "^":
            return Start(flags.m)
        if character == "$":
            raise self._error("$, which asks what comes next")
        if character in "*+?":
            raise self._error(f"{character} with nothing to repeat")
        if character != "\\":
            return Characters(((character, character),), ignores_case=flags.i)
        if self._next == "A":
            self._advance()
            return Start(False)
        if self._next in ("b", "B", "Z", "z"):
            raise self._error(f"\\{self._next}, which asks what comes next")
        return self._escaped(flags.i)

    def _escaped(self, ignores_case: bool) -> Characters:
        """What is behind a backslash."""
        letter = self._advance()
        if letter in _KINDS:
            return Characters(kinds=(_KINDS[letter],))
        if letter in _NUM_DIGITS:
            digits = self._source[self._place : self._place + _NUM_DIGITS[letter]]
            if len(digits) < _NUM_DIGITS[letter] or not re.fullmatch("[0-9a-fA-F]+", digits):
                raise self._error(f"\\{letter} without {_NUM_DIGITS[letter]} hexadecimal digits")
            self._place += len(digits)
            if int(digits, 16) > 0x10FFFF:
                raise self._error("a character past U+10FFFF")
            letter = chr(int(digits, 16))
        elif letter in _CONTROLS and not (letter == "0" and self._next.isdigit()):
            letter = _CONTROLS[letter]
        elif letter.isdigit():
            raise self._error("a back reference, which an automaton cannot follow")
        elif letter.isascii() and letter.isalpha():
            raise self._error(f"\\{letter}, which stands for nothing here")
        return Characters(((letter, letter),), ignores_case=ignores_case)

    def _group(self, flags: _Flags) -> Tree:
        if self._next == "?":
            found = _GROUP.match(self._source, self._place)
            if found is None:
                raise self._error("a group that looks ahead or behind, or that an automaton cannot follow otherwise")
            flags = self._flags(flags, found[1] or "", True)
            flags = self._flags(flags, found[2] or "", False)
            self._place = found.end()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} groups within one another")
        inner = self._choice(flags)
        self._depth -= 1
        if not self._take(")"):
            raise self._error("a group without its )")
        return Chain((inner,))

    def _flags(self, flags: _Flags, letters: str, value: bool) -> _Flags:
        for letter in letters:
            if letter not in _Flags.__dataclass_fields__:
                raise self._error(f"the flag {letter}: of those there are i, m and s")
        return replace(flags, **dict.fromkeys(letters, value))

    def _class(self, flags: _Flags) -> Tree:
        is_negated = self._take("^")
        ranges: list[tuple[str, str]] = []
        kinds: list[Callable[[str], bool]] = []
        is_first = True
        while is_first or self._next != "]":
            is_first = False
            item = self._class_item()
            if self._next == "-" and self._source[self._place + 1 : self._place + 2] not in ("]", ""):
                self._advance()
                last = self._class_item()
                if item.kinds or last.kinds or last.ranges[0][0] < item.ranges[0][0]:
                    raise self._error("a range that does not rise")
                item = Characters(((item.ranges[0][0], last.ranges[0][0]),))
            ranges += item.ranges
            kinds += item.kinds
        self._advance()
        return Characters(tuple(ranges), tuple(kinds), is_negated, flags.i)

    def _class_item(self) -> Characters:
        """One character, or one of the kinds that letters stand for."""
        if self._next == "":
            raise self._error("a [ without its ]")
        character = self._advance()
        if character != "\\":
            return Characters(((character, character),))
        if self._take("b"):
            return Characters((("\b", "\b"),))
        return self._escaped(False)

    @property
    def _next(self) -> str:
        """The next character; empty at the end."""
        return self._source[self._place : self._place + 1]

    def _take(self, sign: str) -> bool:
        """Go past a sign if it comes next."""
        is_there = self._next == sign
        self._place += is_there
        return is_there

    def _advance(self) -> str:
        if self._next == "":
            raise self._error("an end where something must follow")
        self._place += 1
        return self._source[self._place - 1]

    def _error(self, what: str) -> RequestError:
        return RequestError(f"stop_regex has a regex that cannot be had, {self._source!r:.200}: {what}")
