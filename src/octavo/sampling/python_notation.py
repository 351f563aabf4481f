"""Objects as keyword arguments in Python, the notation of models that write their calls so."""

import json
import re
from typing import Any

from octavo.errors import GrammarError
from octavo.sampling.schema_parts import ANNOTATIONS, Schema, SchemaRoot, listed_values, no_others
from octavo.sampling.tag_parts import NOTHING, Choice, ContextFree, Fixed, Part, Regex, Repeat, Sequence, optional

PYTHON_VALUE = r"""start: value
value: STRING | NUMBER | "True" | "False" | "None" | list | dict
list: "[" "]" | "[" value (", " value)* "]"
dict: "{" "}" | "{" pair (", " pair)* "}"
pair: STRING ": " value
STRING: /"([^"\\\x00-\x1f\x7f]|\\["\\nrbtf])*"/
NUMBER: /-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?/
"""
"""Any literal of Python's that JSON has as well."""
PYTHON_STRINGS = {"json_allowed_escapes": 'nrbtf\\"'}
"""The escapes that JSON and Python both read as the same."""
_ARGUMENT = re.compile(r"[\w.\-]+")
"""The name of one: as Python's, or as some tools have it."""


def python_arguments(schema: Schema) -> Part:
    """An object as the keyword arguments of a call in Python: `a=1, b="text", c=[True, None]`, in the schema's order.

    Raises:
        GrammarError: the schema has what this notation cannot be held to.
    """
    root = SchemaRoot(schema)
    properties, required, others = root.object(schema)
    if not properties and others is not None:
        name = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}")
        one = Sequence((name, Fixed("="), _python_value(root, others)))
        return optional(_listed(one))
    arguments: list[tuple[Part, bool]] = []
    for each, value in properties.items():
        if not _ARGUMENT.fullmatch(each):
            raise GrammarError(f"a property named {each!r} cannot be an argument in Python's notation")
        arguments.append((Sequence((Fixed(f"{each}="), _python_value(root, value))), each in required))
    return _separated(arguments)


def _python_value(root: SchemaRoot, schema: Any, depth: int = 0) -> Part:
    own = root.resolved(schema)
    if depth > 30:
        raise GrammarError("a schema that refers to itself cannot be held to in Python's notation")
    if _is_alike(root, own):
        return root.alone(own, **PYTHON_STRINGS)
    options = root.within(own)
    if options is not None:
        return Choice(tuple(_python_value(root, option, depth + 1) for option in options))
    if not own.keys() - ANNOTATIONS:
        return ContextFree(PYTHON_VALUE)
    values = listed_values(own)
    if values is not None:
        return Choice(tuple(Fixed(_as_python(value)) for value in values))
    match own.get("type"):
        case "boolean":
            return Choice((Fixed("True"), Fixed("False")))
        case "null":
            return Fixed("None")
        case "array":
            return _python_list(root, own, depth)
        case "object":
            return _python_dict(root, own, depth)
        case kind:
            raise GrammarError(f"a schema of type {kind!r} cannot be held to in Python's notation")


def _python_list(root: SchemaRoot, own: Schema, depth: int) -> Part:
    no_others(own, {"type", "items", "minItems", "maxItems"})
    item = _python_value(root, own.get("items", {}), depth + 1)
    least, most = int(own.get("minItems", 0)), own.get("maxItems")
    if most == 0:
        return Fixed("[]")
    items = _listed(item, max(least, 1), most)
    return Sequence((Fixed("["), items if least else optional(items), Fixed("]")))


def _python_dict(root: SchemaRoot, own: Schema, depth: int) -> Part:
    properties, required, others = root.object(own)
    if not properties and others is not None:
        key = root.alone({"type": "string"}, **PYTHON_STRINGS)
        pairs: Part = optional(_listed(Sequence((key, Fixed(": "), _python_value(root, others, depth + 1)))))
    else:
        pairs = _separated(
            [
                (Sequence((Fixed(f"{_as_python(name)}: "), _python_value(root, value, depth + 1))), name in required)
                for name, value in properties.items()
            ]
        )
    return Sequence((Fixed("{"), pairs, Fixed("}")))


def _listed(item: Part, least: int = 1, most: int | None = None) -> Part:
    more = Repeat(Sequence((Fixed(", "), item)), least - 1, None if most is None else most - 1)
    return Sequence((item, more))


def _separated(items: list[tuple[Part, bool]]) -> Part:
    """Items with commas between them, of which those that are not required may be absent."""
    first: Part | None = NOTHING
    """What comes if none has come before; None where something must have."""
    more: Part = NOTHING
    for item, is_required in reversed(items):
        begun = Sequence((item, more))
        first = begun if is_required or first is None else Choice((begun, first))
        next_one = Sequence((Fixed(", "), item))
        more = Sequence((next_one if is_required else optional(next_one), more))
    return first or NOTHING


def _is_alike(root: SchemaRoot, own: Schema, depth: int = 0) -> bool:
    """Whether its values are written the same in JSON and in Python."""
    values = listed_values(own)
    if values is not None:
        return all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in values)
    match own.get("type"):
        case "string" | "integer" | "number":
            return not own.keys() & {"anyOf", "oneOf", "allOf"}
        case "array":
            return depth < 30 and "items" in own and _is_alike(root, root.resolved(own["items"]), depth + 1)
        case "object":
            inner = [*(own.get("properties") or {}).values()]
            others = own.get("additionalProperties", True)
            inner += [] if others is False else [others]
            whole = own.keys() - ANNOTATIONS <= {"type", "properties", "required", "additionalProperties"}
            return depth < 30 and whole and all(_is_alike(root, root.resolved(each), depth + 1) for each in inner)
        case _:
            return False


def _as_python(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
