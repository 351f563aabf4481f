"""The outermost layer: names each request, logs it in one line when it is over, and lets go of all it held."""

import json
import logging
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.outputs import RequestOutput
from octavo.server.errors import api_error
from octavo.server.metrics import Metrics
from octavo.server.request_context import RequestContext, request_id_of

CLIENT_LEFT = 499
"""The status logged where the client went away before the answer began (nginx's number)."""

logger = logging.getLogger("octavo.requests")


class RequestLog:
    """Gives each request its id and its context. Those that generate (POST) are logged as INFO, all others as DEBUG.

    Args:
        app: what requests go on to.
        metrics: told of each generation that is over.
        log_prompts: put prompts and answers into the log.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log_prompts: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_prompts = log_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(endpoint=scope["path"], request_id=request_id_of(Headers(scope=scope)))
        scope.setdefault("state", {})["context"] = context
        watched_send = _watching(send, context)
        try:
            async with context.held:
                await self._app(scope, receive, watched_send)
        except Exception as error:
            answer = api_error(error)
            if context.status is None:
                await answer.response()(scope, receive, watched_send)
        finally:
            self._close(context, logging.INFO if scope["method"] == "POST" else logging.DEBUG)

    def _close(self, context: RequestContext, level: int) -> None:
        outputs = [generation.output for generation in context.generations]
        for output in outputs:
            self._metrics.note_end(output, context.arrival_s)
        if logger.isEnabledFor(level):
            record = _record(context, outputs)
            if self._log_prompts:
                record |= _texts(outputs)
            logger.log(level, json.dumps(record))


def _watching(send: Send, context: RequestContext) -> Send:
    """Put the request's id into the answer, and note how far it has come."""

    async def watched(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", context.request_id.encode())]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            context.is_answered = True
        await send(message)

    return watched


def _record(context: RequestContext, outputs: list[RequestOutput]) -> dict[str, Any]:
    """What is logged of a request: numbers and names, nothing that was said."""
    sequences = [sequence for output in outputs for sequence in output.outputs]
    return {
        "request_id": context.request_id,
        "tenant": context.tenant,
        "endpoint": context.endpoint,
        "status": context.status or CLIENT_LEFT,
        "complete": context.is_answered,
        "prompt_tokens": sum(len(output.prompt_token_ids) for output in outputs),
        "cached_tokens": sum(output.metrics.memory.num_cached_tokens for output in outputs),
        "output_tokens": sum(len(sequence.token_ids) for sequence in sequences),
        "finish_reasons": [sequence.finish_reason or "abort" for sequence in sequences],
        "queue_s": _seconds(context, [output.metrics.first_scheduled_s for output in outputs]),
        "first_token_s": _seconds(context, [output.metrics.first_token_s for output in outputs]),
        "total_s": round(time.monotonic() - context.arrival_s, 4),
        "preemptions": sum(output.metrics.memory.num_preemptions for output in outputs),
    }


def _seconds(context: RequestContext, times_s: list[float | None]) -> float | None:
    """From the request's arrival to the first of some times; None where none has come."""
    known = [time_s for time_s in times_s if time_s is not None]
    return round(min(known) - context.arrival_s, 4) if known else None


def _texts(outputs: list[RequestOutput]) -> dict[str, Any]:
    return {
        "prompts": [output.prompt_token_ids if output.prompt is None else output.prompt for output in outputs],
        "texts": [sequence.text for output in outputs for sequence in output.outputs],
    }
