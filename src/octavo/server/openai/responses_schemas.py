"""What /openapi.json tells of the input and the tools of /v1/responses, which are checked by hand."""

from typing import Any

_TEXT = {"type": "string"}


def _object(kind: str | None = None, **properties: Any) -> dict[str, Any]:
    """An object with a type, and with properties that are all required."""
    typed = {} if kind is None else {"type": {"const": kind}}
    return {"type": "object", "properties": typed | properties, "required": [*typed, *properties]}


def _parts(*kinds: str) -> dict[str, Any]:
    return {"type": "array", "items": {"anyOf": [_object(kind, text=_TEXT) for kind in kinds]}}


_CONTENT = {"anyOf": [_TEXT, _parts("input_text", "output_text", "text")]}
_REASONING = {
    **_object("reasoning"),
    "properties": {
        "type": {"const": "reasoning"},
        "content": {"anyOf": [_parts("reasoning_text"), {"type": "null"}]},
        "summary": _parts("summary_text"),
        "encrypted_content": {"type": ["string", "null"], "description": "read where this server has written it"},
    },
}
_ITEM = {
    "anyOf": [
        _object(role={"enum": ["user", "assistant", "system", "developer"]}, content=_CONTENT),
        _REASONING,
        _object("function_call", call_id=_TEXT, name=_TEXT, arguments=_TEXT),
        _object("function_call_output", call_id=_TEXT, output=_CONTENT),
    ]
}
INPUT = {"anyOf": [_TEXT, {"type": "array", "items": _ITEM, "minItems": 1}]}
TOOLS = {
    "type": ["array", "null"],
    "items": {
        "type": "object",
        "properties": {
            "type": {"type": "string", "examples": ["function"]},
            "name": {"type": "string"},
            "description": {"type": ["string", "null"]},
            "parameters": {"type": ["object", "null"], "description": "a JSON schema of the arguments, an object"},
            "strict": {"type": ["boolean", "null"], "description": "calls are held to the schema; not by default"},
        },
        "required": ["type"],
    },
}
