"""What opens and closes the sections of an answer: texts, or patterns.

Patterns come from checkpoints, so the size of each is bounded, and so is the length of its matches.
"""

import math
import re
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

LONGEST_MATCH = 256
"""Characters of the longest match of a pattern: a text that begins none within so many is let go."""
MAX_PATTERN = 2000
"""Characters of a pattern."""
MAX_REPEATS = 1000
"""The product of all counts of a pattern's repetitions, as `regex` writes those out when they are within each other."""
_REPEATED = re.compile(r"\{(\d*),?(\d*)\}")


@dataclass(frozen=True, slots=True)
class Delimiter:
    """What opens or closes a section: one of several texts, or what a pattern matches."""

    literals: tuple[str, ...]
    """Empty for a pattern."""
    pattern: "regex.Pattern[str]"

    @classmethod
    def of_literals(cls, *literals: str) -> "Delimiter":
        """Any of these texts; the longest where several begin at one place."""
        longest_first = sorted(literals, key=len, reverse=True)
        return cls(literals, regex.compile("|".join(regex.escape(text) for text in longest_first)))

    @classmethod
    def of_pattern(cls, source: str) -> "Delimiter":
        """What a pattern of the `regex` package matches; a dot matches line ends, too.

        Raises:
            ValueError: it is no pattern, or so large that compiling it would take much memory.
        """
        counts = (int(count) for pair in _REPEATED.findall(source) for count in pair if count)
        if len(source) > MAX_PATTERN or math.prod(map(float, (max(count, 1) for count in counts))) > MAX_REPEATS:
            raise ValueError(f"{source[:200]!r} is over {MAX_PATTERN} characters, or repeats over {MAX_REPEATS} times")
        try:
            return cls((), regex.compile(source, regex.DOTALL))
        except (regex.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{source[:200]!r} is no pattern: {error}") from error

    @property
    def marker(self) -> str:
        """The text, or something like it: special tokens that the delimiter names are in it."""
        return "\n".join(self.literals) if self.literals else self.pattern.pattern.replace("\\", "")

    @property
    def groups(self) -> frozenset[str]:
        """The names of what a match captures."""
        return frozenset(self.pattern.groupindex)

    def may_grow(self, text: str) -> bool:
        """Whether another match could begin with this one, which ends where the text does so far."""
        if not self.literals:
            return True
        return any(len(literal) > len(text) and literal.startswith(text) for literal in self.literals)
