"""A response and the events that tell of it, from the parts of an answer."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from octavo.answers.parts import CallArguments, CallStart, Part, Reasoning, Text
from octavo.server.conversing import EndReason
from octavo.server.errors import ApiError
from octavo.server.openai.answers import ContentLogprob
from octavo.server.openai.responses_events import (
    ResponseCompleted,
    ResponseCreated,
    ResponseEvent,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    StreamError,
)
from octavo.server.openai.responses_items import (
    FailureCode,
    IncompleteDetails,
    ItemStatus,
    ResponseFailure,
    ResponseObject,
    ResponseUsage,
)
from octavo.server.openai.responses_open_items import OpenCall, OpenItem, OpenMessage, OpenReasoning, new_id

_FAILURES: Final[dict[int, FailureCode]] = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""OpenAI's words for what ends a response, by status."""


class ResponseWriter:
    """Writes one response. `response` has what is written so far, so a response that is sent whole is what a client
    makes of the events.

    Args:
        response: without output.
        encrypts_reasoning: the text of reasoning is told in `encrypted_content`, too.
    """

    def __init__(self, response: ResponseObject, encrypts_reasoning: bool = False) -> None:
        self.response = response
        self._encrypts_reasoning = encrypts_reasoning
        self._numbers = itertools.count()
        self._open: OpenItem | None = None
        self._blanks = ""
        """What may begin a message."""
        self._logprobs: list[ContentLogprob] = []
        """Of a message's tokens whose text has not come yet."""

    def begin(self) -> Iterator[ResponseEvent]:
        """The first events."""
        yield ResponseCreated(next(self._numbers), self._snapshot())
        yield ResponseInProgress(next(self._numbers), self._snapshot())

    def write(self, parts: Iterable[Part], logprobs: Sequence[ContentLogprob] = ()) -> Iterator[ResponseEvent]:
        """The events of what comes next. Blanks alone beside other items are no message.

        Args:
            logprobs: of tokens of messages.
        """
        self._logprobs += logprobs
        for part in parts:
            match part:
                case Text(text):
                    yield from self._tell(text)
                case Reasoning(text):
                    reasoning = self._open
                    if not isinstance(reasoning, OpenReasoning):
                        reasoning = OpenReasoning(self._numbers, self._next_place, self._encrypts_reasoning)
                        yield from self._begin(reasoning)
                    yield from reasoning.gain(text)
                case CallStart(_, name, call_id):
                    yield from self._begin(OpenCall(self._numbers, self._next_place, name, call_id or new_id("call")))
                case CallArguments(_, text) if isinstance(self._open, OpenCall):
                    yield from self._open.gain(text)

    def end(self, reason: EndReason, usage: ResponseUsage) -> Iterator[ResponseEvent]:
        """The events that end the last item and the response."""
        self.response.usage = usage
        if self._next_place == 0:
            yield from self._tell_message(self._blanks)
        match reason:
            case "stop" | "tool_calls":
                is_cut = reason == "stop" and isinstance(self._open, OpenCall)
                yield from self._close("incomplete" if is_cut else "completed")
                self.response.status, self.response.completed_at = "completed", int(time.time())
                yield ResponseCompleted(next(self._numbers), self._snapshot())
            case "length":
                self.response.incomplete_details = IncompleteDetails("max_output_tokens")
                yield from self._cut("incomplete")
            case "abort":
                yield from self._cut("cancelled")
            case "error":
                yield from self.fail(ApiError(500, "the engine failed on this request", code="internal_error"))

    def fail(self, error: ApiError) -> Iterator[ResponseEvent]:
        """The events of a response that an error ends."""
        yield from self._close("incomplete")
        told = error.body().error
        yield StreamError(next(self._numbers), told.message, told.code, told.param)
        self.response.status = "failed"
        self.response.error = ResponseFailure(_FAILURES.get(error.status, "server_error"), told.message)
        yield ResponseFailed(next(self._numbers), self._snapshot())

    @property
    def _next_place(self) -> int:
        """Of the next item among the output."""
        return len(self.response.output) + (self._open is not None)

    def _snapshot(self) -> ResponseObject:
        return msgspec.structs.replace(self.response, output=list(self.response.output))

    def _tell(self, text: str) -> Iterator[ResponseEvent]:
        if isinstance(self._open, OpenMessage):
            yield from self._open.gain(text, self._taken_logprobs())
        elif text.isspace():
            self._blanks += text
        else:
            yield from self._tell_message(self._blanks + text)

    def _tell_message(self, text: str) -> Iterator[ResponseEvent]:
        message = OpenMessage(self._numbers, self._next_place)
        yield from self._begin(message)
        if text:
            yield from message.gain(text, self._taken_logprobs())

    def _begin(self, item: OpenItem) -> Iterator[ResponseEvent]:
        yield from self._close("completed")
        self._open, self._blanks = item, ""
        yield from item.opening()

    def _cut(self, status: Literal["incomplete", "cancelled"]) -> Iterator[ResponseEvent]:
        yield from self._close("incomplete")
        self.response.status = status
        yield ResponseIncomplete(next(self._numbers), self._snapshot())

    def _close(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        if self._open is None:
            return
        if isinstance(self._open, OpenMessage) and self._logprobs:
            yield from self._open.gain("", self._taken_logprobs())
        yield from self._open.closing(status)
        self.response.output.append(self._open.item)
        self._open = None

    def _taken_logprobs(self) -> list[ContentLogprob]:
        taken, self._logprobs = self._logprobs, []
        return taken
