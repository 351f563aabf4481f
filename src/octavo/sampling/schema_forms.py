"""JSON schemas in a form that llguidance can follow, and that says the same.

`oneOf` is `anyOf` where no value can be of two of its options: llguidance knows it of some itself, but not through
references. A dialect of somebody's own is left out: nothing is fetched, and its keywords are read as everyone's.
"""

import json
from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple, Self

VALUES = frozenset({"enum", "const", "default", "examples"})
"""Keywords that hold values and no schemas."""
EVERY_TYPE = frozenset({"null", "boolean", "number", "string", "array", "object"})
MAX_OPTIONS = 256
"""That are compared with one another."""
MAX_REFERENCES = 8
"""That lead from one to the next."""


def followable(schema: Any) -> Any:
    """The schema in such a form."""
    return _rewritten(schema, schema)


def _rewritten(part: Any, root: Any) -> Any:
    if isinstance(part, list):
        return [_rewritten(each, root) for each in part]
    if not isinstance(part, dict):
        return part
    made = {name: value if name in VALUES else _rewritten(value, root) for name, value in part.items()}
    dialect = part.get("$schema")
    if isinstance(dialect, str) and "json-schema.org" not in dialect:
        del made["$schema"]
    options = part.get("oneOf")
    if isinstance(options, list) and len(options) <= MAX_OPTIONS and "anyOf" not in part:
        known = [_Known.of(option, root) for option in options]
        if all(a.excludes(b) for a, b in combinations(known, 2)):
            made["anyOf"] = made.pop("oneOf")
    return made


def _resolved(schema: Any, root: Any) -> Any:
    """What a schema refers to, if that is in the same one."""
    for _ in range(MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        schema = referred(reference, root)
    return None


def referred(reference: str, root: Any) -> Any:
    """What a reference within the schema leads to, `#/$defs/name` for one; None where that is not there."""
    if not reference.startswith("#/"):
        return None
    found = root
    for name in reference[2:].split("/"):
        name = name.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found


class _Known(NamedTuple):
    """What is certain of a schema's values."""

    types: frozenset[str]
    """Those that they may have; integers are numbers."""
    values: frozenset[str] | None = None
    """All of them, each as its text; None where that is not known."""
    required: "Mapping[str, _Known]" = MappingProxyType({})
    """What is known of properties that an object has in any case, but not of theirs."""
    needed: frozenset[str] = frozenset()
    """All properties that an object has in any case."""
    allowed: frozenset[str] | None = None
    """All that it may have; None where it may have others."""

    @classmethod
    def of(cls, schema: Any, root: Any, looks_inside: bool = True) -> Self:
        schema = _resolved(schema, root)
        if not isinstance(schema, dict):
            return cls(frozenset() if schema is False else EVERY_TYPE)
        values, types = _values(schema), _types(schema)
        if types is None:
            types = EVERY_TYPE if values is None else frozenset(_type_of(json.loads(each)) for each in values)
        if types != {"object"} or not looks_inside:
            return cls(types, values)
        properties = schema.get("properties")
        named = properties if isinstance(properties, dict) else {}
        needed = _required(schema)
        is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        required = {name: cls.of(named[name], root, False) for name in needed if name in named}
        return cls(types, values, required, frozenset(needed), frozenset(named) if is_closed else None)

    def excludes(self, other: Self) -> bool:
        """Whether it is certain that no value is of both."""
        if not self.types & other.types:
            return True
        if self.values is not None and other.values is not None:
            return not self.values & other.values
        if self._denies(other) or other._denies(self):
            return True
        common = self.required.keys() & other.required.keys()
        return any(self.required[name].excludes(other.required[name]) for name in common)

    def _denies(self, other: Self) -> bool:
        """Whether it allows no object that has what the other needs."""
        return self.allowed is not None and not other.needed <= self.allowed


def _types(schema: Mapping[str, Any]) -> frozenset[str] | None:
    """The types that a schema names; None where it names none."""
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list):
        return None
    return frozenset("number" if each == "integer" else str(each) for each in names)


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
