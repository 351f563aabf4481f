"""What /openapi.json tells of the endpoints that read and write JSON themselves: bodies, answers and errors."""

from types import UnionType
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel

from octavo.server.anthropic import answers as anthropic_answers
from octavo.server.errors import ErrorAnswer
from octavo.server.openai import answers, pooled_answers
from octavo.server.openai.responses_events import StreamEvent
from octavo.server.openai.responses_items import InputTokenCount, ResponseObject

_REFERENCE = "#/components/schemas/"
_ANSWERS = (
    ErrorAnswer,
    answers.ChatCompletion,
    answers.ChatChunk,
    answers.TextCompletion,
    answers.ModelCard,
    answers.ModelList,
    answers.Tokens,
    answers.Detokenized,
    answers.Version,
    answers.Well,
    answers.Unavailable,
    pooled_answers.EmbeddingList,
    pooled_answers.Ranking,
    pooled_answers.ScoreList,
    pooled_answers.ClassificationList,
    anthropic_answers.Message,
    anthropic_answers.Event,
    anthropic_answers.MessageError,
    anthropic_answers.TokenCount,
    ResponseObject,
    StreamEvent,
    InputTokenCount,
)
_ERRORS = {
    400: "The request is wrong, or asks for what this server cannot do.",
    401: "No key, or a wrong one.",
    404: "There is no such model.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    429: "The server is full: try again later.",
    503: "The server ends, or its engine has stopped.",
}


def takes(body: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of an endpoint that reads its body with `read_body`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(body)}}}}


def gives(
    answer: type[msgspec.Struct] | None,
    event: type[msgspec.Struct] | UnionType | None = None,
    errors: tuple[int, ...] = tuple(_ERRORS),
    error: type[msgspec.Struct] = ErrorAnswer,
) -> dict[int | str, dict[str, Any]]:
    """`responses` of an endpoint.

    Args:
        answer: what is sent whole; None is an object of any fields.
        event: what the events of a stream hold, where there can be one. Where it is of several types, each event is
            named by its own, and the first of the types comes first.
        errors: the statuses of its errors.
        error: what these hold; that of a missing key is always an ErrorAnswer.
    """
    whole = {"type": "object"} if answer is None else _reference(answer)
    content: dict[str, Any] = {"application/json": {"schema": whole}}
    if event is not None:
        content["text/event-stream"] = _events(get_args(event) or (event,))
    kinds = {status: ErrorAnswer if status == 401 else error for status in errors}
    return {
        200: {"description": "The answer", "content": content},
        **{
            status: {
                "description": _ERRORS[status],
                "content": {"application/json": {"schema": _reference(kind)}},
            }
            for status, kind in kinds.items()
        },
    }


def _events(kinds: tuple[type, ...]) -> dict[str, Any]:
    """A stream of them, as text; `x-event` is what one holds."""
    first = kinds[0].__name__
    if len(kinds) == 1:
        told = f"Events, each a line `data: ` with a {first} or an ErrorAnswer; the last is `data: [DONE]`."
        kinds = (*kinds, ErrorAnswer)
    else:
        told = f"Events, each a line `event: ` with its type and a line `data: `; the first is a {first}."
    held = {"anyOf": [_reference(kind) for kind in kinds]}
    return {"schema": {"type": "string", "description": told}, "x-event": held}


def describe(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Put the schemas that the routes refer to into the app's description, and take out FastAPI's own errors, which are
    never sent."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = make()
            schemas = description.setdefault("components", {}).setdefault("schemas", {})
            for unsent in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unsent, None)
            for path in description["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            schemas |= _schemas(bodies)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas(bodies: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(_ANSWERS, ref_template=_REFERENCE + "{name}")
    for body in bodies:
        own = body.model_json_schema(ref_template=_REFERENCE + "{model}")
        schemas |= own.pop("$defs", {})
        schemas[body.__name__] = own
    return schemas


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": _REFERENCE + kind.__name__}
