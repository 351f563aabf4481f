"""The outermost layer: names each request, logs it in one line when it is over, and lets go of all it held."""

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.metrics.requests import Metrics
from octavo.outputs import RequestOutput
from octavo.server.errors import api_error
from octavo.server.request_context import RequestContext, request_id_of

CLIENT_LEFT = 499
"""The status logged where the client went away before the answer began (nginx's number)."""

QUIET_PATHS = ("/live", "/ready", "/health", "/metrics")
"""What is asked every few seconds: logged where the answer is not well, else as DEBUG."""
MAX_TEXT = 8192
"""Characters (or token ids) that the log shows of each prompt and each answer."""

MAX_NAME = 256
"""Characters that the log shows of a path and of a model's name: a client can make them as long as it likes."""

logger = logging.getLogger("octavo.requests")


class RequestLog:
    """Gives each request its id and its context, and logs it in one line of JSON when it is over: refused ones, too.

    Args:
        app: what requests go on to.
        metrics: told of each generation that is over.
        log_requests: log at all.
        log_prompts: log, and put prompts and answers into the line, each up to `MAX_TEXT`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log_requests: bool, log_prompts: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._is_on = log_requests or log_prompts
        self._log_prompts = log_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(
            method=scope["method"], path=scope["path"], request_id=request_id_of(Headers(scope=scope))
        )
        scope.setdefault("state", {})["context"] = context
        watched_send = _watching(send, context)
        try:
            async with context.held:
                await self._app(scope, receive, watched_send)
        except Exception as error:
            answer = api_error(error)
            if context.status is None:
                await answer.response(scope)(scope, receive, watched_send)
        finally:
            self._close(context)

    def _close(self, context: RequestContext) -> None:
        outputs = [generation.output for generation in context.generations]
        for output in outputs:
            self._metrics.note_end(output, context.arrival_s)
        level = logging.DEBUG if _is_quiet(context) else logging.INFO
        if self._is_on and logger.isEnabledFor(level):
            record = _record(context, outputs)
            if self._log_prompts:
                record |= _texts(outputs)
            logger.log(level, _one_line(record))


def _is_quiet(context: RequestContext) -> bool:
    return context.path in QUIET_PATHS and context.status is not None and context.status < 400


def _watching(send: Send, context: RequestContext) -> Send:
    """Put the request's id into the answer, and note how far it has come and what it says is wrong."""

    async def watched(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", context.request_id.encode())]}
        elif message["type"] == "http.response.body":
            if context.status is not None and context.status >= 400 and context.error is None:
                context.error = _error(message.get("body", b""))
            context.is_answered = not message.get("more_body", False)
        await send(message)

    return watched


def _error(body: bytes) -> dict[str, Any] | None:
    """What an error says in words of the server's own. Its message may quote the request."""
    try:
        error = json.loads(body)["error"]
        return {name: error[name] for name in ("type", "code", "param") if error[name] is not None}
    except (ValueError, LookupError, TypeError):
        return None


def _record(context: RequestContext, outputs: list[RequestOutput]) -> dict[str, Any]:
    """What is logged of a request: numbers and names, nothing that was said."""
    sequences = [sequence for output in outputs for sequence in output.outputs]
    refused = {} if context.error is None else {"error": context.error}
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": context.request_id,
        "tenant": context.tenant,
        "method": context.method,
        "path": _shortened(context.path, MAX_NAME),
        "status": context.status or CLIENT_LEFT,
        **refused,
        "model": None if context.model is None else _shortened(context.model, MAX_NAME),
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
    """What was said, the beginning of each prompt and answer."""
    prompts = [output.prompt_token_ids if output.prompt is None else output.prompt for output in outputs]
    texts = [sequence.text for output in outputs for sequence in output.outputs]
    return {"prompts": [_shortened(prompt) for prompt in prompts], "texts": [_shortened(text) for text in texts]}


def _shortened(said: str | list[int], most: int = MAX_TEXT) -> str | list[int | str]:
    if isinstance(said, str):
        return said if len(said) <= most else f"{said[:most]} … ({len(said) - most} characters more)"
    return [*said] if len(said) <= most else [*said[:most], f"{len(said) - most} more"]


def _one_line(record: dict[str, Any]) -> str:
    """JSON that stays one line in any terminal: other scripts are shown as they are, control characters escaped."""
    text = json.dumps(record, ensure_ascii=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
