"""The special tokens of a model, as texts that stand for them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from octavo.errors import GrammarError
from octavo.sampling.tag_parts import End, Fixed, Part, Sequence, Token


@dataclass(frozen=True)
class Marks:
    """The special tokens of a model: texts that spell them stand for them."""

    ids: Mapping[str, int] = field(default_factory=dict)
    """By their texts."""
    ends: frozenset[int] = frozenset()
    """Those that end outputs."""
    num_tokens: int | None = None
    """Of the whole vocabulary; None where nothing is known of it."""

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        longest_first = sorted(self.ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def parts_of(self, text: str) -> list[tuple[str, Part]]:
        """A fixed text in parts, each with its spelling."""
        parts: list[tuple[str, Part]] = []
        begin = 0
        for found in self._spelled.finditer(text):
            parts += [(before, Fixed(before))] if (before := text[begin : found.start()]) else []
            parts.append((found.group(), self._token(self.ids[found.group()])))
            begin = found.end()
        return parts + ([(text[begin:], Fixed(text[begin:]))] if begin < len(text) else [])

    def fixed(self, text: str, closes: bool = False) -> Part:
        """A text, and whether it ends free text in front of it."""
        parts = [part for _, part in self.parts_of(text)]
        if closes and parts and isinstance(parts[-1], Fixed):
            parts[-1] = Fixed(parts[-1].text, closes=True)
        return Sequence(tuple(parts))

    def token(self, named: Any) -> Part:
        """A token by its id or its text."""
        if isinstance(named, str) and named in self.ids:
            return self._token(self.ids[named])
        if isinstance(named, str) and self.num_tokens is None:
            return Fixed(named)
        if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < (self.num_tokens or 2**31):
            return self._token(named)
        raise GrammarError(f"{named!r} is neither a special token of this model nor the id of a token")

    def _token(self, token_id: int) -> Part:
        return End() if token_id in self.ends else Token(token_id)


NO_MARKS = Marks()
