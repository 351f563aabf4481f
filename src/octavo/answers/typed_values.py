"""Values that a model writes without saying of what type they are: the schema of the tool says it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from octavo.answers.tools import Tool

_INTEGER = re.compile(r"[+-]?[0-9]+")
_TRUTHS = {"true": "true", "1": "true", "false": "false", "0": "false"}
MAX_SCHEMA_DEPTH = 16
"""How far a property's types are looked for in its schema's parts."""


def in_json_string(text: str) -> str:
    """A text as it is written within the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def types_of(tool: Tool, key: str) -> tuple[str, ...]:
    """The JSON types that a tool's schema allows for an argument, in its order; none where it says nothing."""
    schema = tool.parameters or {}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or key not in properties:
        return ()
    return tuple(dict.fromkeys(_types(properties[key], schema, 0, set())))


def _types(schema: Any, whole: Mapping[str, Any], depth: int, seen: set[int]) -> Iterator[str]:
    """Nobody has checked the schema, and its references may lead anywhere: each part of it is looked at once.

    Args:
        seen: the ids of the parts that have been looked at.
    """
    if not isinstance(schema, Mapping) or depth > MAX_SCHEMA_DEPTH or id(schema) in seen:
        return
    seen.add(id(schema))
    declared = schema.get("type")
    listed = declared if isinstance(declared, list) else [declared]
    yield from (each for each in listed if isinstance(each, str))
    for name in ("anyOf", "oneOf", "allOf"):
        parts = schema.get(name)
        for part in parts if isinstance(parts, list) else ():
            yield from _types(part, whole, depth + 1, seen)
    if isinstance(reference := schema.get("$ref"), str):
        yield from _types(_referenced(reference, whole), whole, depth + 1, seen)
    if declared is None and isinstance(values := schema.get("enum", [schema.get("const")]), list):
        yield from (_type_of(value) for value in values if value is not None)
    if schema.get("nullable") is True:
        yield "null"


def _type_of(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def _referenced(reference: str, whole: Mapping[str, Any]) -> Any:
    found: Any = whole
    for key in reference.removeprefix("#/").split("/"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def as_json(text: str, types: tuple[str, ...]) -> str:
    """The JSON text of a value that is written as bare text: of the first type that it fits, or else a string."""
    for kind in types:
        if (value := _of_type(text.strip(), kind)) is not None:
            return value
    return json.dumps(text, ensure_ascii=False)


def is_text(types: tuple[str, ...]) -> bool:
    """Whether a value of these types is a string whatever it says."""
    return not set(types) - {"string"}


def _of_type(text: str, kind: str) -> str | None:
    if kind == "boolean":
        return _TRUTHS.get(text.lower())
    if kind == "null":
        return "null" if text in ("null", "None") else None
    if kind == "integer" and _INTEGER.fullmatch(text):
        return text.removeprefix("+").lstrip("0") or "0" if text[0] != "-" else text
    if kind not in ("integer", "number", "object", "array"):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if kind == "integer":
        return str(int(value)) if isinstance(value, float) and value.is_integer() else None
    wanted: Any = {"number": int | float, "object": dict, "array": list}[kind]
    return text if isinstance(value, wanted) and not isinstance(value, bool) else None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
