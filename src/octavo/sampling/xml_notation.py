"""Objects as Qwen3-Coder writes the arguments of a call: a tag for each."""

import json
from typing import Any

from octavo.errors import GrammarError
from octavo.sampling.schema_parts import ANNOTATIONS, Schema, SchemaRoot, listed_values, no_others
from octavo.sampling.tag_parts import Choice, Fixed, Free, Part, Regex, Repeat, Sequence, optional

PARAMETER_END = "\n</parameter>"
XML_MARKS = ("</parameter>", "<parameter=", "</function>", "</tool_call>")
"""Texts that a reader of parameters may take for the end of a value."""
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


_LOOKS = {
    "boolean": "(?i:true|false)|[01]",
    "null": "null|None",
    "integer": "[+0-9-](?s:.*)",
    "number": "[+0-9-](?s:.*)",
    "array": r"\[(?s:.*)",
    "object": r"\{(?s:.*)",
}
"""What a text is like that may be a value of a type."""


def qwen_xml(schema: Schema) -> Part:
    """An object as Qwen3-Coder writes it: `<parameter=name>`, a line's end, the value, a line's end, `</parameter>` and
    another line's end for each property, in the schema's order. Strings stand for themselves, other values as JSON.

    Raises:
        GrammarError: the schema has what this notation cannot be held to.
    """
    root = SchemaRoot(schema)
    own = root.object(schema)

    def parameter(name: Part, value: Part) -> Part:
        return Sequence((Fixed("<parameter="), name, Fixed(">\n"), value, Fixed(PARAMETER_END), Fixed("\n")))

    properties, required, others = own
    if not properties and others is not None:
        name, value = Regex("[A-Za-z_][A-Za-z0-9_]{0,63}"), _xml_value(root, others)
        if value not in (Free(XML_MARKS), Choice((Free(XML_MARKS),))):
            raise GrammarError("additionalProperties that are not strings cannot be held to in this notation")
        return Repeat(parameter(name, value))
    parts = []
    for each, value in properties.items():
        part = parameter(Fixed(each), _xml_value(root, value))
        parts.append(part if each in required else optional(part))
    return Sequence(tuple(parts))


def _xml_value(root: SchemaRoot, schema: Any) -> Part:
    own = root.resolved(schema)
    options = root.within(own) or [own]
    if any(not option.keys() - ANNOTATIONS for option in options):
        return Free(XML_MARKS)
    kinds = {kind for option in options for kind in _kinds(option)}
    # Readers take a text for a string only where it is no value of another type that may stand here.
    unlike = "|".join(_LOOKS[kind] for kind in sorted(kinds & _LOOKS.keys()))
    return Choice(tuple(_xml_option(root, option, unlike) for option in options))


def _xml_option(root: SchemaRoot, own: Schema, unlike: str) -> Part:
    values = listed_values(own)
    if values is not None:
        known = [value for value in values if value is not None or "type" in own]  # as `null` has no type of its own
        texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in known]
        if not texts:
            raise GrammarError("a schema that allows nothing but null must have that as its type")
        return Choice(tuple(map(Fixed, texts)))
    match own.get("type"):
        case "string":
            return _xml_string(own, unlike)
        case "boolean":
            return Choice((Fixed("true"), Fixed("false")))
        case "null":
            return Fixed("null")
        case _:
            return root.alone(own)


def _xml_string(own: Schema, unlike: str) -> Part:
    no_others(own, {"type", "minLength", "maxLength", "pattern", "format"})
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


def _searched(pattern: str) -> str:
    """A regex of whole texts that contain a match."""
    begin, end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begin : len(pattern) - end]
    if (begin or end) and "|" in inner and not (inner.startswith("(") and inner.endswith(")")):
        raise GrammarError(f"the pattern {pattern} cannot be held to in this notation: put brackets between ^ and $")
    return ("" if begin else "(?s:.*)") + f"(?:{inner})" + ("" if end else "(?s:.*)")
