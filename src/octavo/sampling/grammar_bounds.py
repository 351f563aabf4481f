"""How large a grammar may be, by counts that are made before anything else is made of it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from octavo.errors import RequestError
from octavo.knobs import flag
from octavo.structured_outputs import Grammar

_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d+)(?:(,)(\d*))?\}|(.)", re.DOTALL)
"""Of a regex: an escaped character, a class, a count of repetitions, or any other character."""
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarBounds:
    """What a grammar may have at most. The fields are named as the knobs that set them."""

    max_grammar_bytes: int
    """Of its source in UTF-8."""
    max_grammar_depth: int
    """Lists, objects or brackets within one another."""
    max_grammar_repeats: int
    """Parts of its regexes, each counted as often as `{m,n}` repeats it beyond once; nested counts are multiplied."""
    max_grammar_time: float
    """Seconds of processor time to compile it and to follow it by some tokens."""

    def check_size(self, grammar: Grammar) -> None:
        """Refuse a grammar that is too large.

        Raises:
            RequestError: it is; the message names the flag.
        """
        self._check("bytes", len(grammar.source.encode()), "max_grammar_bytes")
        more = 0
        if grammar.kind in ("json_schema", "structural_tag"):
            depth, patterns, more = _of_json(json.loads(grammar.source))
        elif grammar.kind in ("regex", "grammar"):
            depth, patterns = 0, [grammar.source if grammar.kind == "regex" else _unquoted(grammar.source)]
        else:
            return
        self._check("levels", depth, "max_grammar_depth")
        measured = [_of_regex(pattern) for pattern in patterns]
        self._check("levels", max((depth for depth, _ in measured), default=0), "max_grammar_depth")
        repeats = more + sum(repeats for _, repeats in measured)
        self._check("repetitions in regexes", repeats, "max_grammar_repeats")

    def _check(self, what: str, count: int, name: str) -> None:
        most = getattr(self, name)
        if count > most:
            raise RequestError(f"it has {count} {what}, over this server's cap of {most}: raise {flag(name)}")


def _of_json(whole: Any) -> tuple[int, list[str], int]:
    """How deep a schema or a structural tag is, the regexes and grammars in it, and how often it repeats formats."""
    depth, patterns, repeats = 0, [], 0
    level = [whole]
    while level:
        for part in level:
            if isinstance(part, dict):
                patterns += _patterns_of(part)
                repeats += _repeats_of(part)
        level = [value for part in level for value in _within(part)]
        depth += bool(level)
    return depth, patterns, repeats


def _within(part: Any) -> Iterator[Any]:
    if isinstance(part, dict):
        yield from part.values()
    elif isinstance(part, list):
        yield from part


def _patterns_of(part: dict[str, Any]) -> list[str]:
    named = part.get("patternProperties")
    own = [part.get("pattern"), part.get("excluded_pattern"), *(named if isinstance(named, dict) else ())]
    if part.get("type") == "grammar" and isinstance(part.get("grammar"), str):
        own.append(_unquoted(part["grammar"]))
    return [pattern for pattern in own if isinstance(pattern, str)]


def _repeats_of(part: dict[str, Any]) -> int:
    bounds = [part.get("min"), part.get("max")] if part.get("type") == "repeat" else []
    return max((bound for bound in bounds if isinstance(bound, int)), default=0)


def _unquoted(grammar: str) -> str:
    return _QUOTED.sub('""', grammar)


def _of_regex(text: str) -> tuple[int, int]:
    """How deep a regex's groups are, and how many parts its repetitions add to those that it is written with."""
    sizes = [0]
    """Of each open group: its parts so far, repeated ones as often as they are."""
    depth = num_written = last = 0
    for atom in _ATOM.finditer(text):
        low, comma, high, character = atom.groups()
        if low is not None:
            times = int((high or low) if comma else low)
            sizes[-1] += last * (max(times, 1) - 1)
            last *= max(times, 1)
        elif character == "(":
            sizes.append(0)
            depth = max(depth, len(sizes) - 1)
        elif character == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif character not in ("*", "+", "?", "|"):
            last = 1
            sizes[-1] += 1
            num_written += 1
    return depth, sum(sizes) - num_written
