"""Objects as Qwen3-Coder writes the arguments of a call: a tag for each."""

import json
from typing import Any

from octavo.errors import GrammarError
from octavo.sampling.schema_parts import ANNOTATIONS, Schema, SchemaRoot, listed_values, no_others
from octavo.sampling.tag_parts import Choice, Fixed, Free, Part, Regex, Repeat, Sequence, optional

PARAMETER_END = "</parameter>"
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


_BEGINNINGS = {"integer": "+0-9-", "number": "+0-9-", "array": r"\[", "object": r"\{"}
"""Characters that a value of a type begins with."""


def qwen_xml(schema: Schema) -> Part:
    """An object as Qwen3-Coder writes it: `<parameter=name>`, a line's end, the value, a line's end, `</parameter>` and
    another line's end for each property, in the schema's order. Strings stand for themselves, other values as JSON.

    Raises:
        GrammarError: the schema has what this notation cannot be held to.
    """
    root = SchemaRoot(schema)
    own = root.object(schema)

    def parameter(name: Part, value: Part) -> Part:
        return Sequence((Fixed("<parameter="), name, Fixed(">\n"), value, Fixed("\n")))

    properties, required, others = own
    if not properties and others is not None:
        name, value = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}"), _xml_value(root, others)
        if value != _ANY_STRING:
            raise GrammarError("additionalProperties that are not strings cannot be held to in this notation")
        return Repeat(parameter(name, value))
    parts = []
    for each, value in properties.items():
        part = parameter(Fixed(each), _xml_value(root, value))
        parts.append(part if each in required else optional(part))
    return Sequence(tuple(parts))


_ENDED = Fixed(PARAMETER_END, closes=True)
_ANY_STRING = Sequence((Free(), _ENDED))


def _xml_value(root: SchemaRoot, schema: Any) -> Part:
    """A value and what ends it."""
    own = root.resolved(schema)
    options = root.within(own) or [own]
    if any(_is_any_string(option) for option in options):
        return _string_beside([option for option in options if not _is_any_string(option)], root)
    return Sequence((Choice(tuple(_xml_option(root, option) for option in options)), Fixed("\n"), _ENDED))


def _is_any_string(own: Schema) -> bool:
    return own.keys() - ANNOTATIONS <= {"type"} and own.get("type", "string") == "string"


def _string_beside(others: list[Schema], root: SchemaRoot) -> Part:
    """Any string, or another value. Readers take a text for a string only where it is no value of another type that may
    stand here: so where not every value of that type may, strings do not begin like one."""
    held = [own for own in others if own.keys() - ANNOTATIONS - {"type"} or own.get("type") in ("array", "object")]
    if not held:
        return _ANY_STRING
    alike = "".join(dict.fromkeys(_BEGINNINGS.get(str(own.get("type")), "") for own in held))
    string = Sequence((Regex(rf"[^\s<{alike}]|<[^/]"), Free(), _ENDED))
    other = Sequence((Choice(tuple(_xml_option(root, own) for own in others)), Fixed("\n"), _ENDED))
    return Choice((_ENDED, string, other))


def _xml_option(root: SchemaRoot, own: Schema) -> Part:
    values = listed_values(own)
    if values is not None:
        known = [value for value in values if value is not None or "type" in own]  # as `null` has no type of its own
        texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in known]
        if not texts:
            raise GrammarError("a schema that allows nothing but null must have that as its type")
        return Choice(tuple(map(Fixed, texts)))
    match own.get("type"):
        case "string":
            return _xml_string(own)
        case "boolean":
            return Choice((Fixed("true"), Fixed("false")))
        case "null":
            return Fixed("null")
        case _:
            return root.alone(own)


def _xml_string(own: Schema) -> Part:
    no_others(own, {"type", "minLength", "maxLength", "pattern", "format"})
    asked = own.keys() - ANNOTATIONS - {"type"}
    if asked <= {"minLength", "maxLength"}:
        return Regex(f"(?s:.){{{own.get('minLength', 0)},{own.get('maxLength', '')}}}", (PARAMETER_END,))
    if asked == {"pattern"}:
        return Regex(_searched(str(own["pattern"])), (PARAMETER_END,))
    if asked == {"format"} and own["format"] in FORMATS:
        return Regex(FORMATS[own["format"]])
    raise GrammarError(f"strings with {', '.join(f'{name} {own[name]!r}' for name in asked)} cannot be held to")


def _searched(pattern: str) -> str:
    """A regex of whole texts that contain a match."""
    begin, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begin : len(pattern) - end]
    if (begin or end) and "|" in inner and not (inner.startswith("(") and inner.endswith(")")):
        raise GrammarError(f"the pattern {pattern} cannot be held to in this notation: put brackets between ^ and $")
    return ("" if begin else "(?s:.*)") + f"(?:{inner})" + ("" if end else "(?s:.*)")
