"""JSON schemas of JSONSchemaBench's kinds (Geng et al., 2025), drawn from a seed: functions of an assistant, files of
configuration, Kubernetes resources, a newspaper's documents, events, and whatever else a schema store has."""

from collections.abc import Callable
from random import Random
from typing import Any

Schema = dict[str, Any]

NOUNS = ("name", "city", "title", "amount", "status", "email", "date", "note", "owner", "tags", "price", "language")
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
STRING: Schema = {"type": "string"}


def drawn(count: int, seed: int) -> list[tuple[str, Schema]]:
    """So many schemas, with the names of their kinds, which come in turn."""
    rng = Random(seed)
    kinds = list(KINDS.items())
    return [(kinds[i % len(kinds)][0], kinds[i % len(kinds)][1](rng)) for i in range(count)]


def _names(rng: Random, least: int, most: int) -> list[str]:
    return rng.sample(NOUNS, rng.randint(least, most))


def _some(rng: Random, names: list[str]) -> list[str]:
    return [name for name in names if rng.random() < 0.7]


def _leaf(rng: Random) -> Schema:
    low = rng.randint(-5, 50)
    leaves: list[Schema] = [
        {"type": "string", "description": "a short text"},
        {"type": "string", "minLength": 1, "maxLength": rng.randint(5, 40)},
        {"type": "string", "enum": rng.sample(["small", "medium", "large", "extra large"], rng.randint(1, 4))},
        {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)},
        {"type": "integer"},
        {"type": "number", "minimum": 0},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "boolean"},
        {"type": "string", "format": rng.choice(["date", "date-time", "uuid", "ipv4", "email", "time", "uri"])},
        {"type": "string", "pattern": rng.choice(["^[A-Z]{2,3}$", "^v[0-9]+\\.[0-9]+$", "[0-9]{3}", "^#[0-9a-f]{6}$"])},
        {"const": rng.choice(["v1", 7, True, None])},
        {"type": ["integer", "null"]},
    ]
    return rng.choice(leaves)


def _record(rng: Random, least: int = 1, most: int = 4, leaf: Callable[[Random], Schema] = _leaf) -> Schema:
    names = _names(rng, least, most)
    record: Schema = {
        "type": "object",
        "properties": {name: leaf(rng) for name in names},
        "required": _some(rng, names),
    }
    if rng.random() < 0.7:
        record["additionalProperties"] = False
    return record


def function(rng: Random) -> Schema:
    """The arguments of a function, as GlaiveAI's conversations have them."""
    schema = _record(rng, 1, 4)
    if rng.random() < 0.4:
        items = rng.choice([STRING, {"type": "number"}, _record(rng, 2, 3)])
        schema["properties"]["items"] = {"type": "array", "items": items, "minItems": 1, "maxItems": 4}
        schema["required"].append("items")
    return schema


def call(rng: Random) -> Schema:
    """A call of one of several functions."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": f"get_{name}"}, "arguments": _record(rng, 1, 3)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name in _names(rng, 2, 3)
    ]
    return {rng.choice(["anyOf", "oneOf"]): calls}


def configuration(rng: Random) -> Schema:
    """A file of a repository: definitions, parts that may be of several types."""
    return {
        "$schema": DRAFT_7,
        "title": "configuration",
        "definitions": {"path": {"type": "string", "minLength": 1}, "rule": _record(rng, 1, 3)},
        "type": "object",
        "properties": {
            "$schema": STRING,
            "version": {"type": "string", "pattern": "^[0-9]+\\.[0-9]+\\.[0-9]+$"},
            "files": {
                "oneOf": [
                    {"$ref": "#/definitions/path"},
                    {"type": "array", "items": {"$ref": "#/definitions/path"}, "maxItems": 3},
                ]
            },
            "rules": {"type": "object", "additionalProperties": {"$ref": "#/definitions/rule"}, "maxProperties": 2},
            "level": {"enum": ["off", "warn", "error", 0, 1, 2]},
            **_record(rng, 1, 3)["properties"],
        },
        "required": _some(rng, ["version", "files", "level"]),
        "additionalProperties": rng.random() < 0.3,
    }


def kubernetes(rng: Random) -> Schema:
    """A resource: deep, with references and numbers that may be texts."""
    quantity = {"oneOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]}
    container = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?$"},
            "image": STRING,
            "ports": {"type": ["array", "null"], "items": {"$ref": "#/$defs/port"}, "maxItems": 2},
            "resources": {
                "type": "object",
                "properties": {"cpu": quantity, "memory": quantity},
                "additionalProperties": False,
            },
        },
        "required": ["name", *_some(rng, ["image", "ports", "resources"])],
        "additionalProperties": False,
    }
    return {
        "$defs": {
            "port": {
                "type": "object",
                "properties": {
                    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                    "protocol": {"enum": ["TCP", "UDP"]},
                },
                "required": ["port"],
                "additionalProperties": False,
            },
            "container": container,
            "labels": {"type": "object", "additionalProperties": STRING, "maxProperties": 3},
        },
        "type": "object",
        "properties": {
            "apiVersion": {"const": rng.choice(["v1", "apps/v1", "batch/v1"])},
            "kind": {"enum": rng.sample(["Pod", "Deployment", "Job"], rng.randint(1, 3))},
            "metadata": {
                "type": "object",
                "properties": {"labels": {"$ref": "#/$defs/labels"}},
                "additionalProperties": False,
            },
            "spec": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer", "minimum": 0, "maximum": 9},
                    "containers": {
                        "type": "array",
                        "items": {"$ref": "#/$defs/container"},
                        "minItems": 1,
                        "maxItems": 2,
                    },
                },
                "required": ["containers"],
                "additionalProperties": False,
            },
        },
        "required": ["apiVersion", "kind", *_some(rng, ["metadata", "spec"])],
        "additionalProperties": False,
    }


def document(rng: Random) -> Schema:
    """A newspaper's: references within references, formats, a tree of elements."""
    return {
        "$schema": DRAFT_7,
        "definitions": {
            "trait_dated": {"type": "object", "properties": {"date": {"type": "string", "format": "date-time"}}},
            "author": {
                "type": "object",
                "properties": {"name": STRING, "byline": STRING},
                "required": ["name"],
                "additionalProperties": False,
            },
            "element": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "content": STRING},
                        "required": ["type", "content"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {
                            "type": {"const": "list"},
                            "items": {"type": "array", "items": {"$ref": "#/definitions/element"}, "maxItems": 2},
                        },
                        "required": ["type", "items"],
                        "additionalProperties": False,
                    },
                ]
            },
        },
        "type": "object",
        "properties": {
            "_id": {"type": "string", "format": "uuid"},
            "type": {"enum": ["story", "video", "gallery"]},
            "credits": {"type": "array", "items": {"$ref": "#/definitions/author"}, "maxItems": 2},
            "content_elements": {"type": "array", "items": {"$ref": "#/definitions/element"}, "maxItems": 2},
            "published": {"$ref": "#/definitions/trait_dated"},
            "version": {"type": "string", "pattern": "^0\\.[0-9]\\.[0-9]$"},
        },
        "required": ["type", *_some(rng, ["_id", "credits", "content_elements", "version"])],
        "additionalProperties": False,
    }


def event(rng: Random) -> Schema:
    """Snowplow's: flat, every field bounded, many of which may be null."""

    def field(own: Random) -> Schema:
        return own.choice(
            [
                {"type": ["string", "null"], "maxLength": own.choice([16, 64, 255])},
                {"type": ["integer", "null"], "minimum": 0, "maximum": 2147483647},
                {"type": ["number", "null"]},
                {"type": "boolean"},
                {"type": "string", "enum": ["GET", "POST", "PUT"]},
                {"type": "string", "format": "date-time"},
            ]
        )

    return {
        "$schema": "http://iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/1-0-0#",
        "description": "an event",
        "self": {"vendor": "com.example", "name": "event", "format": "jsonschema", "version": "1-0-0"},
        **_record(rng, 2, 6, field),
    }


def stored(rng: Random) -> Schema:
    """A schema store's: patterns of names, conditions, what lists hold, and other corners; some are refused."""
    kinds: list[Schema] = [
        {
            "type": "object",
            "patternProperties": {"^[a-z]{1,6}$": {"type": ["string", "number"]}},
            "additionalProperties": False,
            "maxProperties": 3,
        },
        {
            "allOf": [
                _record(rng, 1, 2) | {"additionalProperties": True},
                {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
            ]
        },
        {"type": "array", "prefixItems": [STRING, {"type": "integer"}], "items": False, "minItems": 2},
        {"type": "array", "items": _record(rng, 1, 3), "minItems": 1, "maxItems": 3},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "dependentRequired": {"a": ["b"]}},
        {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}, "type": "object"},
        {"type": "array", "items": {"enum": ["x", "y", "z"]}, "uniqueItems": True},
        {"type": "array", "contains": {"const": 3}},
        {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}},
        {"type": "object", "minProperties": 1, "additionalProperties": {"type": "boolean"}, "maxProperties": 3},
        {"not": {"type": "string"}},
        {"type": "string", "enum": [f"option {i}" for i in range(rng.randint(50, 300))]},
        {"type": "number", "multipleOf": rng.choice([0.5, 5, 0.01]), "minimum": 0, "maximum": 100},
        {
            "type": "object",
            "properties": {f"field_{i}": _leaf(rng) for i in range(12)},
            "required": ["field_3"],
            "additionalProperties": False,
        },
        {
            "$defs": {
                "tree": {
                    "type": "object",
                    "properties": {"value": {"type": "integer"}, "left": {"$ref": "#/$defs/tree"}},
                    "required": ["value"],
                    "additionalProperties": False,
                }
            },
            "$ref": "#/$defs/tree",
        },
        {
            "type": "object",
            "properties": {"é ü": STRING, 'quo"ted': {"type": "boolean"}},
            "required": ["é ü"],
            "additionalProperties": False,
        },
    ]
    return rng.choice(kinds)


def nested(rng: Random, depth: int = 3) -> Schema:
    """Whatever comes, within one another."""
    if depth == 0 or rng.random() < 0.2:
        return _leaf(rng)
    match rng.randrange(4):
        case 0:
            least = rng.randint(0, 2)
            return {
                "type": "array",
                "items": nested(rng, depth - 1),
                "minItems": least,
                "maxItems": least + rng.randint(0, 2),
            }
        case 1:
            return {"anyOf": [nested(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
        case _:
            return _record(rng, 1, 3, lambda own: nested(own, depth - 1))


KINDS: dict[str, Callable[[Random], Schema]] = {
    each.__name__: each for each in (function, call, configuration, kubernetes, document, event, stored, nested)
}
