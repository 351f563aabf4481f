"""Server-sent events: chunks as they come, then `[DONE]`; an error ends them instead."""

from collections.abc import AsyncIterator, Sequence

import msgspec
from starlette.responses import StreamingResponse

from octavo.server.errors import api_error
from octavo.server.openai.answers import Chunk

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


async def event_stream(batches: AsyncIterator[Sequence[Chunk]]) -> StreamingResponse:
    """Answer with chunks; those that are ready together go out in one write. The first are waited for, so that a
    request that fails before has an answer with its own status.

    Raises:
        OctavoError: what became of the request before its first chunk.
    """
    first: Sequence[Chunk] = await anext(batches, ())
    return StreamingResponse(_events(first, batches), headers=HEADERS, media_type="text/event-stream")


async def _events(first: Sequence[Chunk], batches: AsyncIterator[Sequence[Chunk]]) -> AsyncIterator[bytes]:
    if first:
        yield b"".join(_event(chunk) for chunk in first)
    try:
        async for batch in batches:
            if batch:
                yield b"".join(_event(chunk) for chunk in batch)
    except Exception as error:  # the status has gone out: an event is the only way left to tell
        yield _event(api_error(error).body())
        return
    yield DONE


def _event(content: object) -> bytes:
    return b"data: " + _encode(content) + b"\n\n"
