"""Server-sent events: chunks as they come, then an end; an error ends them instead."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import msgspec
from starlette.responses import StreamingResponse

from octavo.server.errors import api_error

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


class EventForm(NamedTuple):
    """How an API writes the events of a stream."""

    of_chunk: Callable[[msgspec.Struct], bytes]
    of_error: Callable[[Exception], bytes]
    """What ends a stream that fails."""
    end: bytes = b""
    """What ends any other."""


def data_event(content: msgspec.Struct) -> bytes:
    """An event without a name."""
    return b"data: " + _encode(content) + b"\n\n"


def named_event(content: msgspec.Struct) -> bytes:
    """An event named by its type: the tag of its struct."""
    return b"event: " + str(content.__struct_config__.tag).encode() + b"\n" + data_event(content)


DATA_EVENTS = EventForm(data_event, lambda error: data_event(api_error(error).body()), b"data: [DONE]\n\n")
"""As OpenAI's completions have them."""


async def event_stream(
    batches: AsyncIterator[Sequence[msgspec.Struct]], form: EventForm = DATA_EVENTS
) -> StreamingResponse:
    """Answer with chunks; those that are ready together go out in one write. The first are waited for, so that a
    request that fails before has an answer with its own status.

    Raises:
        OctavoError: what became of the request before its first chunk.
    """
    first: Sequence[msgspec.Struct] = await anext(batches, ())
    return StreamingResponse(_events(first, batches, form), headers=HEADERS, media_type="text/event-stream")


async def _events(
    first: Sequence[msgspec.Struct], batches: AsyncIterator[Sequence[msgspec.Struct]], form: EventForm
) -> AsyncIterator[bytes]:
    if first:
        yield b"".join(map(form.of_chunk, first))
    try:
        async for batch in batches:
            if batch:
                yield b"".join(map(form.of_chunk, batch))
    except Exception as error:  # the status has gone out: an event is the only way left to tell
        yield form.of_error(error)
        return
    if form.end:
        yield form.end
