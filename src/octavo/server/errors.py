"""Errors as OpenAI's clients expect them: a status, and `{"error": {"message", "type", "param", "code"}}`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from msgspec import Struct
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from octavo.errors import ContextLengthError, FailedRequestError, OctavoError, QueueTimeError, RequestError

RETRY_AFTER_S = 1
"""What a client is told to wait that comes at a bad time."""

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}

logger = logging.getLogger(__name__)


class ErrorDetail(Struct):
    message: str
    type: str
    param: str | None
    """The field of the body that is wrong."""
    code: str | None
    """A word that programs can tell the error by."""


class ErrorAnswer(Struct):
    """What is sent in place of an answer."""

    error: ErrorDetail


class ApiError(OctavoError):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: names the cause, the limit and the flag or field that changes it.
        code: a word that programs can tell the error by.
        param: the field of the body that is wrong.
        headers: further ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("retry-after", str(RETRY_AFTER_S))

    def body(self) -> ErrorAnswer:
        """What is sent. Text that cannot be written as UTF-8 (it may quote the request) is spelled out."""
        return ErrorAnswer(
            ErrorDetail(
                message=str(self).encode("utf-8", "backslashreplace").decode(),
                type=_TYPES.get(self.status, "invalid_request_error"),
                param=self.param,
                code=self.code,
            )
        )

    def response(self, scope: Scope) -> Response:
        """The HTTP answer to a request, in the form of the API that it is for (`install_handlers`)."""
        forms: Mapping[str, ErrorForm] = scope["app"].state.error_forms
        form = next((form for prefix, form in forms.items() if scope["path"].startswith(prefix)), ApiError.body)
        return Response(msgspec.json.encode(form(self)), self.status, self.headers, media_type="application/json")


ErrorForm = Callable[[ApiError], Struct]
"""What an API sends in place of an answer."""


def install_handlers(app: FastAPI, forms: Mapping[str, ErrorForm]) -> None:
    """Answer every kind of error in OpenAI's format.

    Args:
        forms: of other APIs, by what their paths begin with.
    """
    app.state.error_forms = forms
    for kind in (OctavoError, ValidationError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        asked = f"{request.method} {request.url.path}"
        error = HTTPException(error.status_code, f"there is no {asked} here; /openapi.json has what is", error.headers)
    return api_error(error).response(request.scope)


def api_error(error: Exception) -> ApiError:
    """What a client is told of an error. Of those that are not its own fault it learns no details: the log has them."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, RequestError):
        return ApiError(400, str(error))
    if isinstance(error, QueueTimeError):
        return ApiError(429, str(error), code="queue_time_exceeded")
    if isinstance(error, ValidationError):
        return _of_validation(error.errors(include_url=False, include_context=False, include_input=False))
    if isinstance(error, RequestValidationError):
        return _of_validation([{**each, "loc": each["loc"][1:]} for each in error.errors()])
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), code=_CODES.get(error.status_code), headers=error.headers)
    if isinstance(error, FailedRequestError):
        logger.error("a request failed in the engine: %s", error)
        return ApiError(
            500, "the engine failed on this request, and on it alone; its log says why", code="internal_error"
        )
    if isinstance(error, OctavoError):
        logger.error("a request failed with the engine: %s", error)
        return ApiError(503, "the engine has stopped; the server's log says why", code="engine_stopped")
    logger.error("a request failed unexpectedly", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says why", code="internal_error")


def _of_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Of the first field that is wrong. A field of several types has an error for each type: all are told.

    Args:
        errors: pydantic's, each with its place in the body.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['ctx']['error']}", code="invalid_json")
    where = _field(first["loc"])
    if where is None:
        return ApiError(400, "the body must be a JSON object")
    wanted = dict.fromkeys(_reason(each) for each in errors if _field(each["loc"]) == where)
    return ApiError(400, f"{where}: {', or '.join(list(wanted)[:4])}", param=where)


def _field(location: Sequence[str | int]) -> str | None:
    """The body's field that an error is about."""
    return str(location[0]) if location else None


def _reason(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
