"""Parts of outputs as a grammar of llguidance's (its Lark dialect, docs/syntax.md of guidance-ai/llguidance)."""

import json
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher

from octavo.errors import GrammarError
from octavo.sampling.tag_parts import (
    NOTHING,
    Choice,
    ContextFree,
    End,
    Fixed,
    Free,
    Json,
    Part,
    Regex,
    Repeat,
    Sequence,
    Token,
    flattened,
    may_be_nothing,
    may_end_open,
    split_at_end,
)

ANY_TEXT = "/(?s:.*)/"


def grammar_of_parts(part: Part, json_source: Callable[[str], str]) -> str:
    """The grammar, as the matchers of llguidance take it.

    Args:
        json_source: a schema as it stands behind `%json`.

    Raises:
        GrammarError: the parts cannot be told apart.
    """
    going, ending = split_at_end(part)
    options = tuple(each for each in (going, ending) if each is not None)
    writer = _Writer(json_source)
    start = writer.sequence((Choice(options),) if len(options) != 1 else options)
    lark = "\n".join([f"start: {start}", *writer.rules])
    return json.dumps({"grammars": [{"name": "tag", "lark_grammar": lark}, *writer.grammars]})


class _Writer:
    """Writes rules as they are needed. What is written once is referred to by its name afterwards."""

    def __init__(self, json_source: Callable[[str], str]) -> None:
        self.rules: list[str] = []
        self.grammars: list[dict[str, str]] = []
        self._json_source = json_source
        self._names: dict[object, str] = {}

    def sequence(self, parts: tuple[Part, ...]) -> str:
        parts = flattened(parts)
        written: list[str] = []
        while parts:
            parts = _drawn_in(parts)
            first, rest = parts[0], parts[1:]
            if isinstance(first, Free):
                return " ".join([*written, self._led_rule(first, rest)])
            together = parts[: _num_together(parts)]
            if together:
                written.append(self._as_terminal(together))
                parts = parts[len(together) :]
            elif rest and may_end_open(first):
                return " ".join([*written, self._shared_out(first, rest)])
            else:
                written.append(self._part(first))
                parts = rest
        return " ".join(written) or '""'

    def _part(self, part: Part) -> str:
        match part:
            case Fixed(text):
                return json.dumps(text)
            case Token(id):
                return f"<[{id}]>"
            case Json(schema):
                return self._named(part, lambda: f"%json {self._json_source(schema)}")
            case ContextFree(lark):
                name = f"grammar{len(self.grammars)}"
                return self._named(part, lambda: self._apart(name, lark))
            case Choice(options):
                return self._named(part, lambda: self._one_of([(option,) for option in options]))
            case Repeat(inner, least, most):
                if most == 0:
                    return '""'
                name = self._named(("repeated", inner), lambda: self.sequence((inner,)))
                return f"{name}{{{least},{'' if most is None else most}}}"
            case _:
                return self.sequence((part,))

    def _apart(self, name: str, lark: str) -> str:
        self.grammars.append({"name": name, "lark_grammar": lark})
        return f"@{name}"

    def _one_of(self, sequences: list[tuple[Part, ...]]) -> str:
        """Alternatives.

        Raises:
            GrammarError: a text begins as a JSON value may that could stand in its place. llguidance would follow the
                text alone.
        """
        first = [part for parts in sequences for part in _first_of(parts)]
        values = "".join(_beginnings(json.loads(part.schema)) for part in first if isinstance(part, Json))
        for part in first:
            if isinstance(part, Fixed) and part.text[0] in values:
                raise GrammarError(f"{part.text[:40]!r} cannot be told apart from JSON that may stand in its place")
        return " | ".join(self.sequence(parts) for parts in sequences)

    def _shared_out(self, part: Part, rest: tuple[Part, ...]) -> str:
        """A sequence whose first part may end with free text, which therefore has to see what follows."""
        match part:
            case Choice(options):
                pass
            case Repeat(inner, 0, 1):
                options = (inner, NOTHING)
            case _:
                raise GrammarError("any_text or a regex that is repeated needs an end of its own, a fixed text")
        return self._named((part, rest), lambda: self._one_of([(option, *rest) for option in options]))

    def _led(self, free: Free, parts: tuple[Part, ...]) -> str:
        """Free text, and what follows it."""
        parts = flattened(parts)
        if not parts:
            return self._text(free)
        first, rest = parts[0], parts[1:]
        match first:
            case Fixed(text) if rest and isinstance(rest[0], Token | End):
                # The text is free up to the token, as nothing else tells that this was the last of it.
                return f"{self._ended(free, text)} {self.sequence(rest)}"
            case Fixed(text):
                return f"{self._ended(free, text, '[lazy]')} {self.sequence(rest)}"
            case Token() | End():
                return f"{self._text(free)} {self.sequence(parts)}"
            case Free():
                if first != free:
                    raise GrammarError("any_text follows any_text, and they exclude different texts")
                return self._led(free, rest)
            case Choice(options):
                return " | ".join(self._led_rule(free, (option, *rest)) for option in options)
            case Repeat(_, _, 0):
                return self._led_rule(free, rest)
            case Repeat(inner, least, most):
                if may_be_nothing(inner):
                    raise GrammarError("what is repeated behind any_text must not be empty")
                more = Repeat(inner, max(least - 1, 0), None if most is None else most - 1)
                some = self._led_rule(free, (inner, more, *rest))
                return some if least else f"{some} | {self._led_rule(free, rest)}"
            case _:
                raise GrammarError("any_text must be followed by a fixed text, a token or the end of the answer")

    def _led_rule(self, free: Free, parts: tuple[Part, ...]) -> str:
        return self._named(("led", free, parts), lambda: self._led(free, parts))

    def _text(self, free: Free) -> str:
        return self._named(free, lambda: _without(ANY_TEXT, free.excludes, free.excluded_pattern), "X")

    def _ended(self, free: Free, text: str, options: str = "") -> str:
        key = ("ended", free, text, options)
        return self._named(key, lambda: f"{self._text(free)} {json.dumps(text)}", "r" if options else "X", options)

    def _as_terminal(self, parts: tuple[Part, ...]) -> str:
        return self._named(("terminal", parts), lambda: " ".join(map(self._terminal, parts)), "X")

    def _terminal(self, part: Part) -> str:
        match part:
            case Regex(pattern, excludes):
                return f"({_without(_regex(pattern), excludes)})"
            case Choice(options):
                return "(" + " | ".join(map(self._terminal, options)) + ")"
            case Sequence(parts):
                return " ".join(map(self._terminal, parts)) or '""'
            case Repeat(inner, least, most):
                return f"({self._terminal(inner)}){{{least},{'' if most is None else most}}}"
            case _:
                return self._part(part)

    def _named(self, key: object, write: Callable[[], str], kind: str = "r", options: str = "") -> str:
        """The name of a rule or, in capitals, a terminal."""
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"{kind}{len(self._names)}"
            self.rules.append(f"{name}{options}: {write()}")
        return name


def _drawn_in(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same, but where a text is followed by one of several, each with it: free text that may come as well is told
    apart from a whole text only."""
    match parts:
        case (Fixed(_, False) as text, Choice(options), *rest) if all(map(_begins_fixed, options)):
            return (Choice(tuple(Sequence(flattened((text, option))) for option in options)), *rest)
        case _:
            return parts


def _begins_fixed(part: Part) -> bool:
    return isinstance(next(iter(flattened((part,))), None), Fixed)


def _num_together(parts: tuple[Part, ...]) -> int:
    """How many of the first parts have to be one terminal: regexes and what ends them. Only within a terminal do texts
    that could go on and those that follow sort themselves out."""
    count, is_open = 0, bool(parts) and may_end_open(parts[0])
    while is_open and count < len(parts) and _is_regular(parts[count]):
        is_open = may_end_open(parts[count]) or may_be_nothing(parts[count])
        count += 1
    return count


def _is_regular(part: Part) -> bool:
    match part:
        case Fixed() | Regex():
            return True
        case Sequence(inner) | Choice(inner):
            return all(map(_is_regular, inner))
        case Repeat(repeated, _, _):
            return _is_regular(repeated)
        case _:
            return False


def _first_of(parts: tuple[Part, ...]) -> list[Part]:
    """The parts that a sequence may begin with."""
    match flattened(parts):
        case (Choice(options), *_):
            return [first for option in options for first in _first_of((option,))]
        case (Repeat(inner, 0, _), *rest):
            return [*_first_of((inner,)), *_first_of(tuple(rest))]
        case (Repeat(inner, _, _), *_):
            return _first_of((inner,))
        case (first, *_):
            return [first]
        case _:
            return []


_BEGINNINGS = {
    "object": "{",
    "array": "[",
    "string": '"',
    "number": "-0123456789",
    "integer": "-0123456789",
    "boolean": "tf",
    "null": "n",
}
"""The first characters of JSON values, by their type."""


def _beginnings(schema: dict[str, Any]) -> str:
    kinds = schema.get("type", list(_BEGINNINGS))
    return "".join(_BEGINNINGS.get(kind, "") for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _without(terminal: str, excludes: tuple[str, ...], pattern: str = "") -> str:
    out = [*map(json.dumps, excludes), *([_regex(pattern)] if pattern else [])]
    return f"{terminal} & ~({ANY_TEXT} ({' | '.join(out)}) {ANY_TEXT})" if out else terminal


def _regex(pattern: str) -> str:
    """A regex between slashes, as llguidance writes it."""
    grammar = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]["lark_grammar"]
    return str(grammar).removeprefix("start: ")
