"""The text and the reasoning of an answer as parts, without the whitespace that belongs to neither."""

from collections.abc import Callable

from octavo.answers.parts import Part, Reasoning, Text


class TextParts:
    """Whitespace at an end waits until it is known what follows.

    Args:
        emit: takes the parts.
        tells_reasoning: else reasoning is text, with its markers.
    """

    def __init__(self, emit: Callable[[Part], None], tells_reasoning: bool) -> None:
        self._emit = emit
        self._tells_reasoning = tells_reasoning
        self._waiting: list[str] = []
        """Whitespace that has come last."""
        self._is_blank = True
        """Nothing but whitespace has come since the last call or reasoning section."""
        self._drops_lead = False
        """Whitespace that comes first is none of the text: a reasoning section has ended."""
        self._is_alone = True
        """There was neither a call nor a reasoning section."""

    def text(self, text: str) -> None:
        """More text."""
        if not self._is_blank:
            self._emit_text(text)
            return
        content = text.lstrip()
        if not content:
            self._waiting.append(text)
            return
        self._is_blank = False
        if not self._drops_lead:
            content = "".join(self._waiting) + text
        self._waiting.clear()
        self._emit_text(content)

    def call_began(self) -> None:
        """What was only whitespace since the call before, or a reasoning section, is nothing."""
        self._section_began()
        self._drops_lead = False

    def open_reasoning(self, marker: str) -> None:
        """A reasoning section begins."""
        if self._tells_reasoning:
            self._section_began()
        else:
            self.text(marker)

    def reasoning(self, text: str) -> None:
        """More reasoning."""
        if not self._tells_reasoning:
            self.text(text)
            return
        if self._is_blank:
            text = text.lstrip()
        content = text.rstrip()
        if content:
            self._is_blank = False
            self._emit(Reasoning("".join(self._waiting) + content))
            self._waiting.clear()
        if len(text) > len(content):
            self._waiting.append(text[len(content) :])

    def close_reasoning(self, marker: str) -> None:
        """The reasoning section ends."""
        if self._tells_reasoning:
            self._section_began()
            self._drops_lead = True
        else:
            self.text(marker)

    def finish(self) -> None:
        """No more is coming."""
        if self._is_alone:
            self._emit_text("".join(self._waiting))

    def drop_waiting(self) -> None:
        """What has come was the prompt's."""
        self._waiting.clear()

    def _section_began(self) -> None:
        self._waiting.clear()
        self._is_blank, self._is_alone = True, False

    def _emit_text(self, text: str) -> None:
        if text:
            self._emit(Text(text))
