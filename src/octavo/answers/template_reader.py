"""Takes an answer apart by a response template, while it comes."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from octavo.answers.call_readers import CallReader, call_reader, read_section
from octavo.answers.cursor import CallSink, Cursor, NoCallError, Reading
from octavo.answers.parts import CallArguments, CallStart, Part, Reasoning, Text
from octavo.answers.response_template import Kind, ResponseTemplate, Section
from octavo.answers.scanner import Found, PatternTime, Scanner, Stretch
from octavo.answers.text_parts import TextParts
from octavo.answers.tools import ToolUse


class TemplateReader:
    """Reads one answer (`AnswerReader`).

    Whitespace is left out where it is all there is in front of a call, between two or behind one; behind a reasoning
    section; and at the start and the end of that, where chat templates write line ends of their own.

    A call of an unknown tool is text, and so is what is malformed before it has named a tool. From then on, what comes
    within its arguments is theirs, as it is written.

    Where a tool must be called, an answer that ends in the beginning of a call was cut there: that is no text.

    Args:
        template: how the model marks sections.
        begun: what of the answer the prompt has at its end already.
        use: calls are looked for where tools may be called; where one may be made, only the first counts.
        reads_reasoning: else reasoning is text, with its markers.
    """

    def __init__(self, template: ResponseTemplate, begun: str, use: ToolUse, reads_reasoning: bool) -> None:
        self._template = template
        self._time = PatternTime()
        self._held = Stretch(self._time)
        self._parts: list[Part] = []
        self._out = TextParts(self._parts.append, reads_reasoning)
        self._sink = CallSink({tool.name: tool for tool in use.callable_tools}, not use.calls_once, self._parts.append)
        self._section: Section | None = None
        self._must_call = use.must_call
        self._call: _OpenCall | None = None
        self._shows_outside = False
        """Text outside of sections is shown: always where the template says where it belongs."""
        self._num_begun = len(begun)
        """Characters of the held text that are the prompt's."""
        self._empty_at = -1
        """Where a delimiter without characters was met: another there would be met for ever."""
        self._watch(with_calls=False)
        self._enter(None)
        self._read(begun)
        self._parts.clear()
        self._out.drop_waiting()
        self._watch(use.may_call)
        if self._section is None:
            self._enter(None)

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer is inside a reasoning section now."""
        section = self._section or self._template.outside
        return section is not None and section.kind is Kind.REASONING

    def push(self, text: str) -> Sequence[Part]:
        """The parts that are certain now (see `AnswerReader`)."""
        self._read(text)
        return self._take_parts()

    def finish(self) -> Sequence[Part]:
        """What was held back."""
        self._run(is_end=True)
        self._out.finish()
        parts = self._take_parts()
        return [part for part in parts if not isinstance(part, Text)] if self._must_call else parts

    def _watch(self, with_calls: bool) -> None:
        """Decide what may open outside of sections."""
        sections = [s for s in self._template.sections if with_calls or s.kind is not Kind.CALLS]
        opening = [(section.open, section) for section in sections if section.open is not None]
        # What ends the text outside of sections goes, as what is ignored does; text goes on behind it.
        outside = self._template.outside
        dropped = [self._template.ignored, None if outside is None else outside.close]
        watched = [*opening, *((delimiter, None) for delimiter in dropped if delimiter is not None)]
        self._openings = Scanner([delimiter for delimiter, _ in watched])
        self._opened = [section for _, section in watched]

    def _read(self, text: str) -> None:
        self._time.num_characters += len(text)
        self._held.feed(text)
        self._run(is_end=False)

    def _run(self, is_end: bool) -> None:
        while self._step(is_end):
            pass

    def _step(self, is_end: bool) -> bool:
        """Go on to the next delimiter, or by a stretch of text. Returns whether there may be more."""
        found = self._held.find(self._scanner, is_end)
        if found is not None and found.start == found.end:
            if self._held.position(found.start) == self._empty_at:
                self._handle(self._take(found.start + 1), None, is_end)
                return True
            self._empty_at = self._held.position(found.start)
        self._handle(self._take(self._held.clear_up_to if found is None else found.start), found, is_end)
        return found is not None or not self._held.is_searched

    def _handle(self, text: str, found: Found | None, is_end: bool) -> None:
        """Text, and the delimiter behind it."""
        if self._call is not None:
            self._continue_call(self._call, text, found, is_end)
            return
        self._say(text)
        if found is None:
            return
        marker = self._take(found.end)
        if self._section is not None:
            self._close(self._section, marker)
        elif (section := self._opened[found.which]) is not None:
            self._open(section, marker, found.captures)

    def _say(self, text: str) -> None:
        if self.is_reasoning:
            self._out.reasoning(text)
        elif self._section is not None or self._shows_outside:
            self._out.text(text)

    def _open(self, section: Section, marker: str, captures: Mapping[str, str]) -> None:
        if self.is_reasoning:
            self._out.close_reasoning("")
        if section.kind is Kind.REASONING:
            self._out.open_reasoning(marker)
        self._enter(section)
        if section.kind is Kind.CALLS:
            self._call = _OpenCall(section, marker, captures, self._sink, self._time)

    def _close(self, section: Section, marker: str) -> None:
        if section.kind is Kind.REASONING:
            self._out.close_reasoning(marker)
        self._enter(None)

    def _enter(self, section: Section | None) -> None:
        """Be in a section, or outside of all."""
        self._section, self._call = section, None
        closing = [] if section is None or section.close is None else [section.close]
        self._scanner = self._openings if section is None else Scanner(closing)
        self._shows_outside = self._template.outside is not None
        self._held.go_on(self._held.at)
        if section is None and self.is_reasoning:
            self._out.open_reasoning("")

    def _continue_call(self, call: "_OpenCall", text: str, found: Found | None, is_end: bool) -> None:
        goes_on = self._feed(call, text)
        if goes_on and found is not None:
            is_within_text = call.is_within_text
            marker = self._take(found.end)
            if is_within_text:
                goes_on = self._feed(call, marker)
            else:
                self._end_call(call, marker)
                return
        if not goes_on:
            self._held.go_on(self._held.at - call.num_left)
            self._leave_call(call, call.kept)
        elif is_end and self._held.is_searched:
            self._end_call(call, None)

    def _feed(self, call: "_OpenCall", text: str) -> bool:
        num_calls = self._sink.num_calls
        goes_on = call.feed(text)
        if self._sink.num_calls > num_calls:
            self._out.call_began()
        return goes_on

    def _end_call(self, call: "_OpenCall", marker: str | None) -> None:
        """A section of calls ends: at what closes it, or with the answer."""
        num_calls = self._sink.num_calls
        call.end(is_cut=marker is None)
        if self._sink.num_calls > num_calls:
            self._out.call_began()
        self._leave_call(call, call.kept + (marker or "") if call.has_failed else "")

    def _leave_call(self, call: "_OpenCall", text: str) -> None:
        """Go on outside, with what turned out to be text."""
        self._enter(None)
        self._shows_outside = self._shows_outside or call.has_failed
        if text:
            self._out.text(text)

    def _take(self, end: int) -> str:
        """What comes next, less what the prompt had already."""
        text = self._held.take_until(end)
        num_begun = min(self._num_begun, len(text))
        self._num_begun -= num_begun
        return text[num_begun:]

    def _take_parts(self) -> Sequence[Part]:
        parts = [_joined(list(run)) for _, run in groupby(self._parts, key=_kind)]
        self._parts.clear()
        return parts


class _OpenCall:
    """A section of calls that is being read."""

    def __init__(
        self, section: Section, marker: str, captures: Mapping[str, str], sink: CallSink, spent: PatternTime
    ) -> None:
        self._cursor = Cursor(marker)
        self._reader: CallReader = call_reader(section, captures, self._cursor, sink, spent)
        self._reading: Reading[None] = read_section(self._reader, section, self._cursor)
        self.has_failed = False
        """What has come since the last call is none."""

    @property
    def is_within_text(self) -> bool:
        return self._reader.is_within_text

    @property
    def kept(self) -> str:
        """What was read and is no call."""
        return self._cursor.kept()

    @property
    def num_left(self) -> int:
        """Characters of what was fed last that were not read."""
        return self._cursor.num_left

    def feed(self, text: str) -> bool:
        """Read on. Returns whether the section goes on."""
        self._cursor.feed(text)
        return self._resume()

    def end(self, is_cut: bool) -> None:
        """The section ends here."""
        self._cursor.is_ended, self._cursor.is_cut = True, is_cut
        self._resume()

    def _resume(self) -> bool:
        try:
            next(self._reading)
        except StopIteration:
            return False
        except NoCallError:
            self.has_failed = True
            return False
        return True


def _kind(part: Part) -> tuple[type[Part], int | None]:
    return type(part), part.index if isinstance(part, CallArguments | CallStart) else None


def _joined(run: list[Part]) -> Part:
    first = run[0]
    match first:
        case Text():
            return Text("".join(part.text for part in run if isinstance(part, Text)))
        case Reasoning():
            return Reasoning("".join(part.text for part in run if isinstance(part, Reasoning)))
        case CallArguments(index, _):
            return CallArguments(index, "".join(part.text for part in run if isinstance(part, CallArguments)))
        case CallStart():
            return first
