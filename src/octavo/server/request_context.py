"""One HTTP request from its arrival to its last byte: what the log and the metrics tell of it, and what it holds."""

import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope

from octavo.server.front import Generation

MAX_REQUEST_ID_LENGTH = 128


@dataclass(slots=True)
class RequestContext:
    """A request being worked on. Leaving `held` aborts its generations that are not over."""

    method: str
    path: str
    is_work: bool = False
    """It goes to an endpoint that takes a body."""
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    arrival_s: float = field(default_factory=time.monotonic)
    tenant: str = ""
    """A short name of the API key that came with it."""
    model: str | None = None
    """What the request calls the model, where it names one."""
    status: int | None = None
    """Of the answer, once it has begun."""
    error: dict[str, str] | None = None
    """What an answer that is an error says is wrong, without its message."""
    is_answered: bool = False
    """The last byte has been handed to the connection."""
    generations: list[Generation] = field(default_factory=list)
    held: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def hold(self, generation: Generation) -> None:
        """Keep a generation until the request is over, however it ends."""
        await self.held.enter_async_context(generation)
        self.generations.append(generation)


def request_id_of(headers: Headers) -> str:
    """The id that the client gave its request, as far as it can stand in a log; a new one where it gave none."""
    given = "".join(letter for letter in headers.get("x-request-id", "") if "!" <= letter <= "~")
    return given[:MAX_REQUEST_ID_LENGTH] or uuid.uuid4().hex


def context_of(source: Request | Scope) -> RequestContext:
    """The context of a request."""
    scope = source.scope if isinstance(source, Request) else source
    context: RequestContext = scope["state"]["context"]
    return context
