"""Reasoning sections: where in its output a row is, and what it may write there besides what its grammar allows.

    <think> I wonder … </think> ⏎⏎ {"answer": 1}
    opening             end     gap grammar

Marks are looked for in the bytes of an output: a model may spell them in other tokens than a tokenizer does, and
whoever reads its text finds them all the same. An added token is found, too; no text has the bytes of a special one.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Self

from octavo.structured_outputs import ReasoningSection

if TYPE_CHECKING:
    from octavo.sampling.grammars import Matcher

LINE_END = b"\n"
MAX_GAP = 2
"""Tokens of line ends alone that may stand between a section's end and what the grammar describes: models write an
empty line there, as one token or two."""


class MarkedTokens:
    """What looking for marks in a model's tokens takes.

    Args:
        token_bytes: of each of the model's tokens; none of one that stands for no text.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._overruns: dict[bytes, list[int]] = {}

    def __getitem__(self, token_id: int) -> bytes:
        return self._token_bytes[token_id]

    def spelled(self, token_ids: Sequence[int]) -> bytes:
        """The text of a mark. Blanks around it are a tokenizer's own, or do not matter."""
        return b"".join(self[i] for i in token_ids).strip()

    @cached_property
    def line_ends(self) -> int:
        """A bit for each token of line ends alone."""
        return sum(1 << i for i, text in enumerate(self._token_bytes) if text and not text.strip(LINE_END))

    @cached_property
    def all(self) -> int:
        """A bit for each token."""
        return (1 << len(self._token_bytes)) - 1

    def overruns(self, end: bytes) -> list[int]:
        """By how many bytes of an end came before them: a bit for each token that completes it and goes on with more
        than line ends."""
        masks = self._overruns.get(end)
        if masks is None:
            masks = [0] * len(end)
            for i, text in enumerate(self._token_bytes):
                if end[-1:] in text[:-1]:
                    for known in range(len(end)):
                        _, _, rest = (end[:known] + text).partition(end)
                        if rest.strip(LINE_END):
                            masks[known] |= 1 << i
            self._overruns[end] = masks
        return masks

    def mask(self, bits: int) -> bytes:
        """As `Follower.masks` has it."""
        return bits.to_bytes(-(-len(self._token_bytes) // 32) * 4, "little")


@dataclass(frozen=True, slots=True)
class SectionMarks:
    """A section's marks, in the tokens of one model."""

    section: ReasoningSection
    tokens: MarkedTokens
    opening: bytes
    end: bytes

    @classmethod
    def of(cls, section: ReasoningSection, tokens: MarkedTokens) -> Self:
        """Finds whatever later steps need."""
        end = tokens.spelled(section.end)
        _ = tokens.line_ends, tokens.overruns(end)
        return cls(section, tokens, tokens.spelled(section.opening), end)


class Part(Enum):
    """Of an output."""

    START = "some of the opening at most, which may be the grammar's text as well"
    SECTION = "the section is open"
    GAP = "behind the section's end; line ends at most"
    ANSWER = "what the grammar describes"


class OutputMatcher:
    """Follows a row's output: through its reasoning section, if it has one, and from there on through its grammar, if
    it has one. All is a function of the tokens consumed.

    Args:
        fresh: a matcher of the grammar that has consumed nothing, and never will.
        marks: of the section.
    """

    def __init__(self, fresh: "Matcher | None", marks: SectionMarks | None) -> None:
        self._fresh = fresh
        self._marks = marks
        self._part = Part.ANSWER
        self._num_tokens = 0
        """Of the part so far, but the last one's; those of the opening do not count for the section."""
        self._is_spelled = True
        """What there is of the opening is in the section's own tokens."""
        self._seen = b""
        """The last bytes, as far as they may belong to a mark."""
        if marks is not None and marks.section.is_open:
            self._part = Part.SECTION
        elif marks is not None and marks.opening:
            self._part = Part.START
        self.grammar = None if fresh is None or self._part is Part.SECTION else fresh.copy()
        """What the next mask is made of; None where no grammar says anything about the next token."""

    @property
    def is_over(self) -> bool:
        """Nothing will be masked any more."""
        return self._fresh is None and self._part in (Part.GAP, Part.ANSWER)

    def copy(self) -> "OutputMatcher":
        """Another one that has consumed the same tokens."""
        twin = copy.copy(self)
        twin.grammar = None if self.grammar is None else self.grammar.copy()
        return twin

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on by some tokens, as `Matcher.consume`."""
        for place, token_id in enumerate(token_ids):
            if self._marks is None or self._part is Part.ANSWER:
                self._answer(token_ids[place:])
                return
            self._take(token_id, self._marks)

    def mask(self, of_grammar: bytes | None) -> bytes | None:
        """The tokens that may come next, as `Follower.masks` has them; None where all may.

        Args:
            of_grammar: the mask of `grammar`; None where that is.
        """
        marks = self._marks
        if marks is None or self._part is Part.ANSWER:
            return of_grammar
        if self._part is Part.SECTION:
            return self._mask_of_section(marks)
        if self.grammar is None or of_grammar is None:
            return None
        allowed = 0 if self.grammar.is_lost else int.from_bytes(of_grammar, "little")
        if self._part is Part.START:
            opening = marks.section.opening
            if self._is_spelled and self._num_tokens < len(opening):
                allowed |= 1 << opening[self._num_tokens]
        elif self._num_tokens < MAX_GAP:
            allowed |= marks.tokens.line_ends
        return marks.tokens.mask(allowed)

    def _mask_of_section(self, marks: SectionMarks) -> bytes | None:
        """While the section is open: its end, where it has had its tokens, and else anything. Only a token that would
        hold the end and a part of the answer may not come, as no grammar describes a part of a token."""
        forced = self._forced_end(marks)
        if forced:
            return marks.tokens.mask(1 << forced[0])
        overruns = 0 if self._fresh is None else marks.tokens.overruns(marks.end)[len(self._seen)]
        return marks.tokens.mask(marks.tokens.all ^ overruns) if overruns else None

    def forced(self) -> list[int]:
        """As `Matcher.forced`."""
        if self._marks is not None and self._part is Part.SECTION:
            return self._forced_end(self._marks)
        return [] if self.grammar is None or self._part is not Part.ANSWER else self.grammar.forced()

    def _forced_end(self, marks: SectionMarks) -> list[int]:
        """What is left of the end, where the section has had its tokens."""
        most = marks.section.max_tokens
        return [] if most is None or self._num_tokens < most else list(marks.section.end[self._num_tokens - most :])

    def _take(self, token_id: int, marks: SectionMarks) -> None:
        """Go on by a token that may belong to another part than the grammar's."""
        text = marks.tokens[token_id]
        match self._part:
            case Part.START:
                self._open(token_id, text, marks)
            case Part.SECTION:
                self._num_tokens += 1
                self._look_for_end(text, marks)
            case _ if self._num_tokens < MAX_GAP and text and not text.strip(LINE_END):
                self._num_tokens += 1
            case _:
                self._begin(Part.ANSWER)
                self._answer([token_id])

    def _open(self, token_id: int, text: bytes, marks: SectionMarks) -> None:
        """Another token of the output's start."""
        opening = marks.section.opening
        self._is_spelled &= self._num_tokens < len(opening) and opening[self._num_tokens] == token_id
        self._num_tokens += 1
        self._seen = (self._seen + text).lstrip()
        if self._seen.startswith(marks.opening):
            rest = self._seen.removeprefix(marks.opening)
            self.grammar = None
            self._begin(Part.SECTION)
            self._look_for_end(rest, marks)
            return
        if not text or not marks.opening.startswith(self._seen):
            self._begin(Part.ANSWER)
        self._answer([token_id])

    def _look_for_end(self, text: bytes, marks: SectionMarks) -> None:
        """More of the section's text."""
        self._seen += text
        if marks.end in self._seen:
            self.grammar = None if self._fresh is None else self._fresh.copy()
            self._begin(Part.GAP)
            return
        most = min(len(self._seen), len(marks.end) - 1)
        kept = next(count for count in range(most, -1, -1) if self._seen.endswith(marks.end[:count]))
        self._seen = marks.end[:kept]

    def _begin(self, part: Part) -> None:
        self._part, self._num_tokens, self._seen = part, 0, b""

    def _answer(self, token_ids: Sequence[int]) -> None:
        if self.grammar is not None:
            self.grammar.consume(token_ids)
