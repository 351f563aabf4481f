"""Which reader reads the calls of a section."""

from collections.abc import Mapping
from typing import Protocol

from octavo.answers.cursor import CallSink, Cursor, Reading
from octavo.answers.json_calls import JsonCalls
from octavo.answers.python_calls import PythonCalls
from octavo.answers.response_template import Section
from octavo.answers.scanner import PatternTime
from octavo.answers.tagged_calls import TaggedCall, Tags
from octavo.answers.whole_calls import WholeCalls

BRACKETS = "}]) \t\r\n"


class CallReader(Protocol):
    """Reads the calls of one section."""

    @property
    def is_within_text(self) -> bool:
        """What comes next may say anything, what closes the section, too."""
        ...

    def read(self) -> Reading[None]:
        """Goes on whenever the cursor has more.

        Raises:
            NoCallError: what has come since the last call is none.
        """
        ...


def call_reader(
    section: Section, captures: Mapping[str, str], cursor: Cursor, sink: CallSink, spent: PatternTime
) -> CallReader:
    """For a section that has been opened.

    Args:
        captures: what its opening delimiter says.
        spent: the time that the answer's patterns have taken.
    """
    args, shape = section.content_args or {}, section.shape
    if shape is None or not shape.is_shallow:
        return WholeCalls(cursor, sink, section, captures)
    name = captures.get(shape.name[0])
    call_id = None if shape.id is None else captures.get(shape.id[0])
    if section.content == "json" and not {"unquoted_keys", "string_delims", "allow_non_json"} & set(args):
        return JsonCalls(cursor, sink, shape, name, call_id, args.get("other_keys") is False)
    if section.content == "python-call-list":
        return PythonCalls(cursor, sink)
    tags = Tags.of(args) if section.content == "xml-inline" else None
    if tags is not None and not shape.argument_keys and name is not None:
        return TaggedCall(cursor, sink, tags, name, call_id, spent)
    return WholeCalls(cursor, sink, section, captures)


def read_section(reader: CallReader, section: Section, cursor: Cursor) -> Reading[None]:
    """Read a section's calls, and what is left of it. Brackets too many at its end are left out.

    Raises:
        NoCallError: what has come since the last call is none.
    """
    yield from reader.read()
    cursor.forget()
    if section.close is None:
        return
    cursor.keep()
    while (character := (yield from cursor.peek())) and character in BRACKETS:
        cursor.take()
