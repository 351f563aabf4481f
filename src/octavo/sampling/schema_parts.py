"""JSON schemas by their parts, for notations other than JSON's."""

import json
from typing import Any
from urllib.parse import unquote

from octavo.errors import GrammarError
from octavo.sampling.tag_parts import Json, Part

Schema = dict[str, Any]

ANNOTATIONS = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated")
)
"""Keywords that ask nothing of a value."""


class SchemaRoot:
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
                no_others(part, {"$ref"})
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
        no_others(own, {"type", "properties", "required", "additionalProperties"})
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
                no_others(part, {name})
                if name == "oneOf":
                    raise GrammarError("oneOf cannot be held to in this notation: send anyOf")
                return [self.resolved(option) for option in part[name]]
        if isinstance(part.get("type"), list):
            return [{**part, "type": kind} for kind in part["type"]]
        return None


def listed_values(own: Schema) -> list[Any] | None:
    """Those that it lists."""
    if "const" in own or "enum" in own:
        no_others(own, {"const", "enum", "type"})
        return [own["const"]] if "const" in own else list(own["enum"])
    return None


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for each in part for found in _references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for each in part.values() for found in _references(each)]


def no_others(own: Schema, known: set[str]) -> None:
    others = own.keys() - known - ANNOTATIONS
    if others:
        raise GrammarError(f"{', '.join(sorted(others))} in a schema cannot be held to in this notation")
