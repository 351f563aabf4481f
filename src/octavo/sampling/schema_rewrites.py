"""Schemas said in other words, where the compiler of grammars lacks a keyword and others say the same.

A rewritten schema allows what validates against the one that was sent, and nothing else; property names of a bounded
length are the one exception, as they have no control characters. What cannot be said otherwise stays as it is, and is
refused by its name.
"""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

from octavo.sampling.schema_formats import with_known_format
from octavo.sampling.schema_forms import followable, referred

Schema = dict[str, Any]
Rewrite = Callable[[Schema, Schema], Any]
"""Of a schema whose parts are rewritten already, within a whole one. The same object where there is nothing to do."""

TYPES = ("null", "boolean", "number", "string", "array", "object")
MAX_ARRAYS = 400
"""Of a set's members, in every order: those that are listed one by one."""
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$comment", "deprecated"})
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = (
    *("items", "additionalProperties", "propertyNames", "contains", "unevaluatedProperties", "unevaluatedItems"),
    *("not", "if", "then", "else"),
)


def rewritten(schema: Any) -> Any:
    """The same schema, of keywords that can be compiled as far as that is possible."""
    return followable(_rewrite(schema, schema)) if isinstance(schema, dict) else schema


def _rewrite(part: Any, whole: Schema) -> Any:
    if not isinstance(part, dict):
        return part
    new = {name: _parts_rewritten(name, value, whole) for name, value in part.items()}
    for rewrite in _REWRITES:
        if isinstance(new, dict):
            new = rewrite(new, whole)
    return new


def _parts_rewritten(name: str, value: Any, whole: Schema) -> Any:
    if name in _MAPS and isinstance(value, dict):
        return {key: _rewrite(each, whole) for key, each in value.items()}
    if name in _LISTS and isinstance(value, list):
        return [_rewrite(each, whole) for each in value]
    return _rewrite(value, whole) if name in _SINGLE else value


def _property_names(own: Schema, whole: Schema) -> Schema:
    names = _resolved(own.get("propertyNames", False), whole)
    names = {} if names is True else names
    if not isinstance(names, dict) or names.get("type", "string") != "string":
        return own
    asked = names.keys() - ANNOTATIONS - {"type"}
    others = own.get("additionalProperties", {})
    rest = {name: value for name, value in own.items() if name != "propertyNames"}
    properties = own.get("properties") or {}
    if not asked:
        return rest
    if "patternProperties" in own or not asked <= {"enum", "const", "pattern", "minLength", "maxLength"}:
        return own
    listed = _listed(names, whole)
    if listed is not None:
        known = {name: properties.get(name, others) for name in listed if isinstance(name, str)}
        ordered = {**{name: value for name, value in properties.items() if name in known}, **known}
        return {**rest, "properties": ordered, "additionalProperties": False}
    if properties or ("pattern" in asked and len(asked) > 1):
        return own
    pattern = names.get("pattern") or rf"^[^\x00-\x1f]{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$"
    return {**rest, "patternProperties": {pattern: others}, "additionalProperties": False}


def _unique_items(own: Schema, whole: Schema) -> Schema:
    if "uniqueItems" not in own:
        return own
    rest = {name: value for name, value in own.items() if name != "uniqueItems"}
    most = own.get("maxItems")
    if own["uniqueItems"] is not True or (isinstance(most, int) and most <= 1):
        return rest
    members = _listed(own.get("items"), whole)
    if members is None or own.get("type") != "array" or own.keys() & {"prefixItems", "enum", "const"}:
        return own
    least, most = int(own.get("minItems", 0)), min(len(members), most if isinstance(most, int) else len(members))
    arrays = _arrays(members, least, most)
    if arrays is None:
        return own
    kept = {name: value for name, value in rest.items() if name not in ("items", "minItems", "maxItems", "type")}
    return {**kept, "enum": arrays}


def _arrays(members: list[Any], least: int, most: int) -> list[list[Any]] | None:
    """All arrays of different members; None where they are too many."""
    arrays: list[list[Any]] = []
    for length in range(least, most + 1):
        for each in permutations(members, length):
            arrays.append(list(each))
            if len(arrays) > MAX_ARRAYS:
                return None
    return arrays


def _negation(own: Schema, whole: Schema) -> Any:
    if "not" not in own:
        return own
    denied = _resolved(own["not"], whole)
    rest = {name: value for name, value in own.items() if name != "not"}
    if denied is False:
        return rest
    if denied is True or not denied.keys() - ANNOTATIONS:
        return False
    match {name: value for name, value in denied.items() if name not in ANNOTATIONS}:
        case {"type": kind, **more} if not more:
            return _without_types(rest, [kind] if isinstance(kind, str) else kind) or own
        case {"required": [name], **more} if not more and rest.get("type") == "object":
            properties = own.get("properties") or {}
            return {**rest, "properties": {**properties, name: False}}
        case {"enum": _} | {"const": _}:
            return _without_values(rest, _listed(denied, whole) or [], whole) or own
        case _:
            return own


def _without_types(rest: Schema, denied: list[str]) -> Schema | None:
    kinds = rest.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not set(denied) <= set(TYPES):
        return None  # numbers that are no integers have no type
    denied = [*denied, *(["integer"] if "number" in denied else [])]
    return {**rest, "type": [kind for kind in kinds if kind not in denied]}


def _without_values(rest: Schema, denied: list[Any], whole: Schema) -> Schema | None:
    listed = _listed(rest, whole) if rest.keys() & {"enum", "const"} else None
    if listed is not None:
        kept = {name: value for name, value in rest.items() if name != "const"}
        return {**kept, "enum": [value for value in listed if not any(_is_same(value, each) for each in denied)]}
    if denied == [""] and rest.get("type") == "string":
        return {**rest, "minLength": max(1, rest.get("minLength", 0))}
    return None


def _condition(own: Schema, whole: Schema) -> Schema:
    """`if` one property has one of some values, where all that it may have are listed."""
    asked = own.get("if")
    rest = {name: value for name, value in own.items() if name not in ("if", "then", "else")}
    if "if" not in own or not own.keys() & {"then", "else"}:
        return rest if own.keys() & {"if", "then", "else"} else own
    match asked:
        case {"properties": {**properties}, **more} if len(properties) == 1 and more.keys() <= {"required", "type"}:
            name, wanted = str(next(iter(properties))), next(iter(properties.values()))
        case _:
            return own
    may = _listed((own.get("properties") or {}).get(name), whole)
    met = _listed(wanted, whole)
    is_named = more.get("required", []) == [name]
    is_plain = more.get("type", "object") == "object" and (is_named or not more.get("required"))
    if may is None or met is None or own.get("type") != "object" or not is_plain:
        return own
    met = [value for value in may if any(_is_same(value, each) for each in met)]
    unmet = [value for value in may if not any(_is_same(value, each) for each in met)]
    branches = [
        _branch(name, values, is_required, own.get(key, True))
        for key, values, is_required in (("then", met, is_named), ("else", unmet, not is_named))
        if values or not is_required
    ]
    possible = [branch for branch in branches if branch is not False]
    return {**rest, "allOf": [*rest.get("allOf", []), {"anyOf": possible}]}


def _branch(name: str, values: list[Any], is_required: bool, schema: Any) -> Any:
    if schema is False:
        return False
    own: Schema = {"properties": {name: {"enum": values} if values else False}}
    own |= {"required": [name]} if is_required else {}
    return own if schema is True else {"allOf": [own, schema]}


def _dependent_required(own: Schema, whole: Schema) -> Schema:
    needs = own.get("dependentRequired")
    if not isinstance(needs, dict) or own.get("type") != "object":
        return own
    rest = {name: value for name, value in own.items() if name != "dependentRequired"}
    either = [
        {"anyOf": [{"required": [name, *needed]}, {"properties": {name: False}}]}
        for name, needed in needs.items()
        if needed
    ]
    return {**rest, "allOf": [*rest.get("allOf", []), *either]} if either else rest


def _unevaluated(own: Schema, whole: Schema) -> Schema:
    others = {"anyOf", "oneOf", "allOf", "$ref", "if", "dependentSchemas", "not", "additionalProperties"}
    if "unevaluatedProperties" not in own or own.keys() & others:
        return own
    return {("additionalProperties" if name == "unevaluatedProperties" else name): v for name, v in own.items()}


_REWRITES: tuple[Rewrite, ...] = (
    _property_names,
    _unique_items,
    _negation,
    _condition,
    _dependent_required,
    _unevaluated,
    with_known_format,
)


def _resolved(part: Any, whole: Schema) -> Any:
    """A part, or what it refers to within the definitions."""
    for _ in range(20):
        match part:
            case {"$ref": str(reference), **more} if more.keys() <= ANNOTATIONS:
                part = referred(reference, whole)
            case _:
                return part
    return None


def _listed(part: Any, whole: Schema) -> list[Any] | None:
    """All values that a schema allows, where it lists them."""
    own = _resolved(part, whole)
    if not isinstance(own, dict):
        return None
    asked = own.keys() - ANNOTATIONS
    if asked in ({"const"}, {"const", "type"}):
        values = [own["const"]]
    elif asked in ({"enum"}, {"enum", "type"}):
        values = list(own["enum"])
    elif asked == {"type"} and own["type"] in ("boolean", "null"):
        values = [None] if own["type"] == "null" else [False, True]
    else:
        return None
    return list(_different(value for value in values if _is_of_type(value, own.get("type"))))


def _different(values: Iterator[Any]) -> Iterator[Any]:
    seen: list[Any] = []
    for value in values:
        if not any(_is_same(value, each) for each in seen):
            seen.append(value)
            yield value


def _is_same(one: Any, other: Any) -> bool:
    """As JSON has it: true is no 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _is_of_type(value: Any, kinds: Any) -> bool:
    names = {bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, str: {"string"}, list: {"array"}}
    own = {"null"} if value is None else names.get(type(value), {"object"})
    return kinds is None or bool(own & ({kinds} if isinstance(kinds, str) else set(kinds)))
