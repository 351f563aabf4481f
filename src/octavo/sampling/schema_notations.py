"""Values of a JSON schema as models write the arguments of calls where they do not write JSON."""

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from octavo.errors import GrammarError
from octavo.sampling.tag_parts import NOTHING, Choice, ContextFree, Fixed, Free, Json, Part, Regex, Repeat, Sequence
from octavo.sampling.tag_parts import optional as may_be_absent

Schema = dict[str, Any]

ANNOTATIONS = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated")
)
"""Keywords that ask nothing of a value."""
PARAMETER_END = "\n</parameter>"
XML_MARKS = ("</parameter>", "<parameter=", "</function>", "</tool_call>")
"""Texts that a reader of parameters may take for the end of a value."""
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
FORMATS = {
    "date": r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])",
    "time": r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "ipv4": r"((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)".replace(r"1?\d?\d", r"1\d\d|[1-9]?\d"),
    "email": r"[a-zA-Z0-9_%+-]{1,64}@[a-zA-Z0-9]{1,63}(\.[a-zA-Z0-9]{1,63}){1,3}",
    "uri": r"[a-z][a-z0-9+.-]{0,20}://[a-zA-Z0-9.-]{1,100}(:[0-9]{1,5})?(/[a-zA-Z0-9._~%/-]{0,200})?",
}
FORMATS["date-time"] = FORMATS["date"] + "T" + FORMATS["time"]
"""Of strings that stand for themselves: texts that have the format, if not all of them."""


def qwen_xml(schema: Schema) -> Part:
    """An object as Qwen3-Coder writes it: `<parameter=name>`, a line's end, the value, a line's end, `</parameter>` and
    another line's end for each property, in the schema's order. Strings stand for themselves, other values as JSON.

    Raises:
        GrammarError: the schema has what this notation cannot be held to.
    """
    root = _Root(schema)
    own = root.object(schema)

    def parameter(name: Part, value: Part) -> Part:
        return Sequence((Fixed("<parameter="), name, Fixed(">\n"), value, Fixed(PARAMETER_END), Fixed("\n")))

    properties, required, others = own
    if not properties and others is not None:
        name, value = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}"), _xml_value(root, others)
        if value != Choice((Free(XML_MARKS),)):
            raise GrammarError("additionalProperties that are not strings cannot be held to in this notation")
        return Repeat(parameter(name, value))
    parts = []
    for each, value in properties.items():
        part = parameter(Fixed(each), _xml_value(root, value))
        parts.append(part if each in required else may_be_absent(part))
    return Sequence(tuple(parts))


def python_arguments(schema: Schema) -> Part:
    """An object as the keyword arguments of a call in Python: `a=1, b="text", c=[True, None]`, in the schema's order.

    Raises:
        GrammarError: the schema has what this notation cannot be held to.
    """
    root = _Root(schema)
    properties, required, others = root.object(schema)
    if not properties and others is not None:
        name = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}")
        one = Sequence((name, Fixed("="), _python_value(root, others)))
        return may_be_absent(_listed(one))
    arguments: list[tuple[Part, bool]] = []
    for each, value in properties.items():
        if not _ARGUMENT.fullmatch(each):
            raise GrammarError(f"a property named {each!r} cannot be an argument in Python's notation")
        arguments.append((Sequence((Fixed(f"{each}="), _python_value(root, value))), each in required))
    return _separated(arguments)


NOTATIONS: dict[str, Callable[[Schema], Part]] = {"qwen_xml": qwen_xml, "python": python_arguments}
"""By the `style` of a json_schema. `python` is this server's own."""


_ARGUMENT = re.compile(r"[\w.\-]+")
"""The name of one: as Python's, or as some tools have it."""
_LOOKS = {
    "boolean": "(?i:true|false)|[01]",
    "null": "null|None",
    "integer": "[+-]?[0-9](?s:.*)",
    "number": "-?[0-9](?s:.*)",
    "array": r"\[(?s:.*)",
    "object": r"\{(?s:.*)",
}
"""What a text is like that may be a value of a type."""


class _Root:
    """A whole schema, which its parts refer to."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def resolved(self, part: Any) -> Schema:
        """A part, or what it refers to."""
        for _ in range(100):
            if part is True:
                return {}
            if not isinstance(part, dict):
                raise GrammarError(f"a schema is an object, got {part!r}")
            inner = part.get("allOf")
            if isinstance(inner, list) and len(inner) == 1 and part.keys() - {"allOf"} <= ANNOTATIONS:
                part = inner[0]
            elif "$ref" not in part:
                return part
            else:
                _no_others(part, {"$ref"})
                part = self._at(str(part["$ref"]))
        raise GrammarError("$ref refers to itself")

    def _at(self, reference: str) -> Any:
        place: Any = self._schema
        for name in reference.removeprefix("#").split("/")[1:]:
            name = unquote(name).replace("~1", "/").replace("~0", "~")
            place = place.get(name) if isinstance(place, dict) else None
        if place is None or not reference.startswith("#"):
            raise GrammarError(f"$ref {reference} leads nowhere")
        return place

    def alone(self, part: Schema, **options: Any) -> Part:
        """A part as a schema of its own, of a JSON value."""
        whole: Schema = {name: self._schema[name] for name in ("$defs", "definitions") if name in self._schema}
        for reference in _references(part):
            if not reference.startswith(("#/$defs/", "#/definitions/")):
                raise GrammarError(f"$ref {reference} is not followed in this notation: put what it names into $defs")
        own = {**whole, **part, **({"x-guidance": options} if options else {})}
        return Json(json.dumps(own, ensure_ascii=False, separators=(",", ":")))

    def object(self, part: Any) -> tuple[dict[str, Any], set[str], Any]:
        """The properties of an object, those that must be there, and the schema of others; None where there are none.
        Where there are properties, others are left out."""
        own = self.resolved(part)
        if own.get("type", "object") not in ("object", ["object"]):
            raise GrammarError(f"arguments are an object, and the schema says {own['type']!r}")
        _no_others(own, {"type", "properties", "required", "additionalProperties"})
        properties = dict(own.get("properties") or {})
        required = set(own.get("required") or ())
        others = own.get("additionalProperties", True)
        for name in own.get("required") or ():
            properties.setdefault(name, others)
        return properties, required, None if others is False else others

    def within(self, part: Schema) -> list[Schema] | None:
        """The schemas of which a value has to conform to one, where a part says so."""
        for name in ("anyOf", "oneOf"):
            if name in part:
                _no_others(part, {name})
                if name == "oneOf":
                    raise GrammarError("oneOf cannot be held to in this notation: send anyOf")
                return [self.resolved(option) for option in part[name]]
        if isinstance(part.get("type"), list):
            return [{**part, "type": kind} for kind in part["type"]]
        return None


def _xml_value(root: _Root, schema: Any) -> Part:
    own = root.resolved(schema)
    options = root.within(own) or [own]
    kinds = {kind for option in options for kind in _kinds(option)}
    # Readers take a text for a string only where it is no value of another type that may stand here.
    unlike = "|".join(_LOOKS[kind] for kind in sorted(kinds & _LOOKS.keys()))
    return Choice(tuple(_xml_option(root, option, unlike) for option in options))


def _xml_option(root: _Root, own: Schema, unlike: str) -> Part:
    if not own.keys() - ANNOTATIONS:
        return Free(XML_MARKS)
    values = _values(own)
    if values is not None:
        known = [value for value in values if value is not None or "type" in own]  # as `null` has no type of its own
        texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in known]
        if not texts:
            raise GrammarError("a schema that allows nothing but null must have that as its type")
        return Choice(tuple(map(Fixed, texts)))
    if own.get("type") != "string":
        return root.alone(own)
    return _xml_string(own, unlike)


def _xml_string(own: Schema, unlike: str) -> Part:
    _no_others(own, {"type", "minLength", "maxLength", "pattern", "format"})
    asked = own.keys() - ANNOTATIONS - {"type"}
    if not asked:
        return Regex("(?s:.)*", XML_MARKS, unlike) if unlike else Free(XML_MARKS)
    if asked <= {"minLength", "maxLength"}:
        return Regex(f"(?s:.){{{own.get('minLength', 0)},{own.get('maxLength', '')}}}", XML_MARKS, unlike)
    if asked == {"pattern"}:
        return Regex(_searched(str(own["pattern"])), XML_MARKS, unlike)
    if asked == {"format"} and own["format"] in FORMATS:
        return Regex(FORMATS[own["format"]], (), unlike)
    raise GrammarError(f"strings with {', '.join(f'{name} {own[name]!r}' for name in asked)} cannot be held to")


def _kinds(own: Schema) -> set[str]:
    kind = own.get("type")
    return {kind} if isinstance(kind, str) else set()


def _python_value(root: _Root, schema: Any, depth: int = 0) -> Part:
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
    values = _values(own)
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


def _python_list(root: _Root, own: Schema, depth: int) -> Part:
    _no_others(own, {"type", "items", "minItems", "maxItems"})
    item = _python_value(root, own.get("items", {}), depth + 1)
    least, most = int(own.get("minItems", 0)), own.get("maxItems")
    if most == 0:
        return Fixed("[]")
    items = _listed(item, max(least, 1), most)
    return Sequence((Fixed("["), items if least else may_be_absent(items), Fixed("]")))


def _python_dict(root: _Root, own: Schema, depth: int) -> Part:
    properties, required, others = root.object(own)
    if not properties and others is not None:
        key = root.alone({"type": "string"}, **PYTHON_STRINGS)
        pairs: Part = may_be_absent(_listed(Sequence((key, Fixed(": "), _python_value(root, others, depth + 1)))))
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
        more = Sequence((next_one if is_required else may_be_absent(next_one), more))
    return first or NOTHING


def _is_alike(root: _Root, own: Schema, depth: int = 0) -> bool:
    """Whether its values are written the same in JSON and in Python."""
    values = _values(own)
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


def _values(own: Schema) -> list[Any] | None:
    """Those that it lists."""
    if "const" in own or "enum" in own:
        _no_others(own, {"const", "enum", "type"})
        return [own["const"]] if "const" in own else list(own["enum"])
    return None


def _as_python(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _searched(pattern: str) -> str:
    """A regex of whole texts that contain a match."""
    begin, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begin : len(pattern) - end]
    if (begin or end) and "|" in inner and not (inner.startswith("(") and inner.endswith(")")):
        raise GrammarError(f"the pattern {pattern} cannot be held to in this notation: put brackets between ^ and $")
    return ("" if begin else "(?s:.*)") + f"(?:{inner})" + ("" if end else "(?s:.*)")


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for each in part for found in _references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for each in part.values() for found in _references(each)]


def _no_others(own: Schema, known: set[str]) -> None:
    others = own.keys() - known - ANNOTATIONS
    if others:
        raise GrammarError(f"{', '.join(sorted(others))} in a schema cannot be held to in this notation")
