"""What an output conforms to, in parts: what a structural tag is made of before it becomes a grammar."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fixed:
    """This text. It spells no special token."""

    text: str
    closes: bool = False
    """It ends free text in front of it, whatever comes behind."""


@dataclass(frozen=True, slots=True)
class Token:
    """This token."""

    id: int


@dataclass(frozen=True, slots=True)
class End:
    """A token that ends outputs: nothing follows."""


@dataclass(frozen=True, slots=True)
class Free:
    """Any text, as far as what follows it in the sequence lets it go: up to the first text of that."""

    excludes: tuple[str, ...] = ()
    """It contains none of these."""
    excluded_pattern: str = ""
    """A regex of which it contains no match; empty for none."""


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value that validates."""

    schema: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A text that matches as a whole, in the syntax of Rust's `regex`."""

    pattern: str
    excludes: tuple[str, ...] = ()
    """It contains none of these."""


@dataclass(frozen=True, slots=True)
class ContextFree:
    """A text that a grammar in Lark's syntax derives."""

    lark: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other."""

    parts: tuple["Part", ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them."""

    options: tuple["Part", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Several times the same."""

    part: "Part"
    least: int = 0
    most: int | None = None


Part = Fixed | Token | End | Free | Json | Regex | ContextFree | Sequence | Choice | Repeat
NOTHING = Sequence()


def optional(part: Part) -> Part:
    return Repeat(part, 0, 1)


def flattened(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same sequence without sequences in it, and with texts that follow one another joined."""
    joined: list[Part] = []
    for part in parts:
        for each in flattened(part.parts) if isinstance(part, Sequence) else (part,):
            last = joined[-1] if joined else None
            if isinstance(each, Fixed) and isinstance(last, Fixed) and not last.closes:
                joined[-1] = Fixed(last.text + each.text, each.closes)
            elif not (isinstance(each, Fixed) and not each.text):
                joined.append(each)
    return tuple(joined)


def may_be_nothing(part: Part) -> bool:
    match part:
        case Sequence(parts):
            return all(map(may_be_nothing, parts))
        case Choice(options):
            return any(map(may_be_nothing, options))
        case Repeat(inner, least, _):
            return least == 0 or may_be_nothing(inner)
        case _:
            return isinstance(part, Free)


def may_end_open(part: Part) -> bool:
    """Whether its last part may be a text that goes on until what follows comes, so that it has to know that."""
    match part:
        case Sequence(parts):
            for each in reversed(parts):
                if may_end_open(each):
                    return True
                if not may_be_nothing(each):
                    return False
            return False
        case Choice(options):
            return any(map(may_end_open, options))
        case Repeat(inner, _, _):
            return may_end_open(inner)
        case _:
            return isinstance(part, Free | Regex)


def split_at_end(part: Part) -> tuple[Part | None, Part | None]:
    """The same as two: what goes on behind it, and what ends the output with it. None where there is no such."""
    match part:
        case End():
            return None, NOTHING
        case Sequence(parts):
            going: Part | None = NOTHING
            ending: list[Part] = []
            for each in parts:
                if going is None:
                    break
                goes, ends = split_at_end(each)
                if ends is not None:
                    ending.append(Sequence((going, ends)))
                going = None if goes is None else Sequence((going, goes))
            return going, _one_of(ending)
        case Choice(options):
            split = [split_at_end(option) for option in options]
            return _one_of([goes for goes, _ in split if goes]), _one_of([ends for _, ends in split if ends])
        case Repeat(inner, least, most) if most != 0:
            goes, ends = split_at_end(inner)
            if ends is None:
                return part, None
            if goes is None:
                return (None if least else NOTHING), (ends if least < 2 else None)
            before = Repeat(goes, max(least - 1, 0), None if most is None else most - 1)
            return Repeat(goes, least, most), Sequence((before, ends))
        case _:
            return part, None


def _one_of(options: list[Part]) -> Part | None:
    return Choice(tuple(options)) if len(options) > 1 else options[0] if options else None
