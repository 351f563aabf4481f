"""`oneOf` of a JSON schema, where no value can be of two of its options: that is `anyOf`, which grammars can follow.
llguidance knows it of some itself, but not through references."""

import json
from collections.abc import Mapping
from itertools import combinations
from typing import Any

VALUES = frozenset({"enum", "const", "default", "examples"})
"""Keywords that hold values and no schemas."""
EVERY_TYPE = frozenset({"null", "boolean", "number", "string", "array", "object"})
MAX_REFERENCES = 8
"""That lead from one to the next."""


def with_exclusive_options(schema: Any) -> Any:
    """The schema, in which each `oneOf` whose options exclude one another is `anyOf`."""
    return _rewritten(schema, schema)


def _rewritten(part: Any, root: Any) -> Any:
    if isinstance(part, list):
        return [_rewritten(each, root) for each in part]
    if not isinstance(part, dict):
        return part
    made = {name: value if name in VALUES else _rewritten(value, root) for name, value in part.items()}
    options = part.get("oneOf")
    if isinstance(options, list) and "anyOf" not in part:
        resolved = [_resolved(option, root) for option in options]
        if all(_exclude(a, b, root) for a, b in combinations(resolved, 2)):
            made["anyOf"] = made.pop("oneOf")
    return made


def _resolved(schema: Any, root: Any) -> Any:
    """What a schema refers to, if that is in the same one."""
    for _ in range(MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        schema = root
        for name in reference[2:].split("/"):
            name = name.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name) if isinstance(schema, dict) else None
    return None


def _exclude(a: Any, b: Any, root: Any) -> bool:
    """Whether it is certain that no value is of both schemas."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return a is False or b is False
    types_a, types_b = _types(a), _types(b)
    if not types_a & types_b:
        return True
    values_a, values_b = _values(a), _values(b)
    if values_a is not None and values_b is not None:
        return not values_a & values_b
    return types_a == types_b == {"object"} and any(
        _exclude(_property(a, name, root), _property(b, name, root), root) for name in _required(a) & _required(b)
    )


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    """The types that a schema's values may have; integers are numbers."""
    named = schema.get("type")
    if named is not None:
        types = frozenset([named] if isinstance(named, str) else filter(lambda each: isinstance(each, str), named))
        return frozenset("number" if each == "integer" else each for each in types)
    values = _values(schema)
    return EVERY_TYPE if values is None else frozenset(_type_of(json.loads(each)) for each in values)


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """The only values that a schema has, each as its text; None where it says nothing of them."""
    if "const" in schema:
        return frozenset([_text(schema["const"])])
    values = schema.get("enum")
    return frozenset(map(_text, values)) if isinstance(values, list) else None


def _text(value: Any) -> str:
    """The same for equal values, as 1 and 1.0 are."""
    return json.dumps(json.loads(json.dumps(value), parse_float=_as_whole), sort_keys=True)


def _as_whole(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _required(schema: Mapping[str, Any]) -> set[str]:
    names = schema.get("required")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _property(schema: Mapping[str, Any], name: str, root: Any) -> Any:
    properties = schema.get("properties")
    return _resolved(properties.get(name), root) if isinstance(properties, dict) else None
