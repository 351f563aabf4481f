"""Structural tags: free text, and what is held to schemas, regexes and grammars within it."""

import json
from typing import Any

import pytest

from octavo.errors import RequestError
from octavo.sampling.grammar_sources import check_grammar, source_of
from octavo.sampling.guidance import CompiledGrammar, TextTokens
from octavo.structured_outputs import Grammar, StructuredOutputsParams

SPECIAL = ("<|end|>", "<|call|>", "[CALL]")
"""Special tokens; the first ends outputs."""
TOKENS = [bytes([i]) for i in range(256)] + [b"\xff" + text.encode() for text in SPECIAL]
IDS = {text: 256 + place for place, text in enumerate(SPECIAL)}
VOCABULARY = TextTokens(TOKENS, [IDS["<|end|>"]], None)

Format = dict[str, Any]
OBJECT: Format = {"type": "json_schema", "json_schema": {"type": "object"}}
TEXT: Format = {"type": "any_text"}
PERSON: Format = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "pet": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "size": {"enum": ["x", "xl"]},
        "flags": {"type": "array", "items": {"type": "boolean"}},
        "code": {"type": "string", "pattern": "^[a-z]+$"},
    },
    "required": ["name", "age"],
}


def fixed(text: str) -> Format:
    return {"type": "const_string", "value": text}


def tag(begin: str, content: Format, end: Any) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def calls(**ways: Any) -> Format:
    tags = [tag("<f=a>", OBJECT, "</f>"), tag("<f=b>", OBJECT, "</f>")]
    return {"type": "triggered_tags", "triggers": ["<f="], "tags": tags, **ways}


def separated(separator: str = ",", **ways: Any) -> Format:
    return {"type": "tags_with_separator", "tags": [tag("<a>", OBJECT, "</a>")], "separator": separator, **ways}


def styled(style: str) -> Format:
    return {"type": "json_schema", "json_schema": PERSON, "style": style}


def xml(*pairs: tuple[str, str]) -> str:
    return "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in pairs)


def token_ids(text: str) -> list[int]:
    """Special tokens where a text spells them in ⟨brackets⟩, bytes elsewhere."""
    ids: list[int] = []
    for place, piece in enumerate(text.replace("⟨", "\0").replace("⟩", "\0").split("\0")):
        ids += [IDS[piece]] if place % 2 else list(piece.encode())
    return ids


def conforms(source: Any, text: str) -> bool:
    """Whether the whole text does, and an output may end there."""
    params = StructuredOutputsParams(structural_tag=source)
    state = CompiledGrammar(VOCABULARY, source_of(params.grammar_of_output(), VOCABULARY.marks)).begin()
    ids = token_ids(text)
    return state.try_consume_tokens(ids) == len(ids) and not state.is_error() and state.is_accepting()


@pytest.mark.parametrize(
    ("own", "good", "bad"),
    [
        (fixed("a [CALL]b"), ["a ⟨[CALL]⟩b"], ["a [CALL]b", "a ", ""]),
        (OBJECT, ['{"a": 1}'], ["[]", "{} "]),
        ({"type": "json_schema", "json_schema": True}, ["1", "[null]"], ["x"]),
        (TEXT, ["", "abc\n é"], ["a⟨[CALL]⟩"]),
        ({"type": "any_text", "excludes": ["bad", "x"]}, ["good", "ba d"], ["a bad", "x"]),
        ({"type": "regex", "pattern": "a/b+\n?"}, ["a/bb", "a/b\n"], ["a", "a/bc"]),
        (sequence({"type": "regex", "pattern": "[a-z]+"}, fixed("end"), OBJECT), ["abend{}", "endend{}"], ["end{}"]),
        ({"type": "grammar", "grammar": 'root ::= "(" root ")" | "a"'}, ["((a))"], ["(a"]),
        ({"type": "grammar", "grammar": 'start: "a" | start "b"'}, ["abb"], ["b"]),
        ({"type": "token", "token": "[CALL]"}, ["⟨[CALL]⟩"], ["[CALL]", ""]),
        ({"type": "token", "token": IDS["<|call|>"]}, ["⟨<|call|>⟩"], ["⟨[CALL]⟩"]),
        ({"type": "or", "elements": [fixed("a"), OBJECT, fixed("ab")]}, ["a", "ab", "{}"], ["b", ""]),
        ({"type": "optional", "content": OBJECT}, ["", "{}"], ["{}{}"]),
        ({"type": "star", "content": fixed("ab")}, ["", "abab"], ["aba"]),
        ({"type": "plus", "content": OBJECT}, ["{}", "{}{}"], [""]),
        ({"type": "repeat", "min": 1, "max": 2, "content": fixed("a")}, ["a", "aa"], ["", "aaa"]),
        ({"type": "repeat", "min": 2, "max": -1, "content": fixed("a")}, ["aa", "a" * 9], ["a"]),
        ({"type": "repeat", "min": 0, "max": 0, "content": fixed("a")}, [""], ["a"]),
        (tag("<t>", TEXT, "</t>"), ["<t></t>", "<t>a<b></t>"], ["<t>", "<t>a</t>b", "<t></t></t>"]),
        (tag("<t>", TEXT, ["</t>", "<e>"]), ["<t>a</t>", "<t>a<e>"], ["<t>a</t><e>"]),
        (tag("[CALL]", TEXT, "[CALL]"), ["⟨[CALL]⟩a⟨[CALL]⟩"], ["⟨[CALL]⟩a[CALL]", "⟨[CALL]⟩"]),
        (calls(), ["", "ab <f", "a<f=a>{}</f>", "<f=a>{}</f>x<f=b>{}</f>y"], ["<f=", "<f=c>{}</f>", "<f=a>x</f>"]),
        (calls(at_least_one=True), ["<f=a>{}</f>", "<f=b>{}</f> and<f=a>{}</f>!"], ["", "a<f=a>{}</f>"]),
        (calls(stop_after_first=True), ["", "a", "a<f=a>{}</f>"], ["<f=a>{}</f>x", "<f=a>{}</f><f=a>{}</f>"]),
        (calls(at_least_one=True, stop_after_first=True), ["<f=a>{}</f>"], ["", "<f=a>{}</f><f=b>{}</f>"]),
        (calls(excludes=["bad"]), ["a<f=a>{}</f>b"], ["a bad", "a<f=a>{}</f>bad"]),
        (tag("<r>", calls(), "</r>"), ["<r>a</r>", "<r>a<f=a>{}</f>b</r>"], ["<r>a</r>b", "<r><f=c</r>"]),
        (sequence(TEXT, {"type": "optional", "content": fixed("END")}), ["a", "aEND"], ["aENDa"]),
        (sequence(tag("<t>", TEXT, "</t>"), calls()), ["<t>a</t>b<f=a>{}</f>"], ["b", "<t>a<f=a>{}</f>"]),
        (separated(), ["", "<a>{}</a>", "<a>{}</a>,<a>{}</a>"], ["<a>{}</a>,", "x"]),
        (separated("", at_least_one=True), ["<a>{}</a><a>{}</a>"], [""]),
        (separated(stop_after_first=True), ["", "<a>{}</a>"], ["<a>{}</a>,<a>{}</a>"]),
        ({"type": "dispatch", "rules": [["<f>", OBJECT]]}, ["a", "<f>{}a<f>{}"], ["<f>a"]),
        ({"type": "dispatch", "rules": [["<f>", OBJECT]], "loop": False}, ["a", "a<f>{}"], ["<f>{}a"]),
        (
            {"type": "triggered_tags", "triggers": ["[CALL]"], "tags": [tag("[CALL]f", OBJECT, "")]},
            ["a", "a⟨[CALL]⟩f{} b⟨[CALL]⟩f{}"],
            ["⟨[CALL]⟩g", "[CALL]f{}", "a⟨<|call|>⟩"],
        ),
        (
            {"type": "triggered_tags", "triggers": ["\n[CA"], "tags": [tag("\n[CALL]f", OBJECT, "")]},
            ["a\nb\n\n⟨[CALL]⟩f{}"],
            ["a⟨[CALL]⟩f{}", "\n⟨[CALL]⟩g"],
        ),
        (
            {
                "type": "token_triggered_tags",
                "trigger_tokens": ["<|call|>"],
                "tags": [tag("<|call|>", OBJECT, {"type": "token", "token": "[CALL]"})],
            },
            ["a", "a⟨<|call|>⟩{}⟨[CALL]⟩b"],
            ["⟨<|call|>⟩{}"],
        ),
        (
            styled("qwen_xml"),
            [xml(("name", "A\nB <b>"), ("age", "3"))],
            [xml(("name", "A")), xml(("name", "A"), ("age", "x"))],
        ),
        (
            styled("qwen_xml"),
            [
                xml(("name", ""), ("age", "3"), ("pet", "null"), ("size", "xl"), ("flags", "[true, false]")),
                xml(("name", "a"), ("age", "3"), ("code", "ab")),
                xml(("name", "a"), ("age", "3"), ("pet", "nullable")),
            ],
            [
                xml(("name", "a"), ("age", "3"), ("size", "l")),
                xml(("name", "a"), ("age", "3"), ("code", "1")),
                xml(("age", "3"), ("name", "a")),
            ],
        ),
        (
            styled("python"),
            ['name="A\\n", age=3', 'name="", age=3, pet=None, size="xl", flags=[True, False], code="a"'],
            ['name="A"', 'name="A", age=3, flags=[true]', 'name="A", age=3, code="1"', 'age=3, name="A"'],
        ),
    ],
    ids=str,
)
def test_an_output_conforms_to_a_format_or_leaves_it(own: Format, good: list[str], bad: list[str]) -> None:
    source = {"type": "structural_tag", "format": own}
    check_grammar(StructuredOutputsParams(structural_tag=source).grammar_of_output())
    assert {text: conforms(source, text) for text in [*good, *bad]} == {
        **dict.fromkeys(good, True),
        **dict.fromkeys(bad, False),
    }


def test_the_older_form_is_read_as_text_too() -> None:
    source = {
        "type": "structural_tag",
        "structures": [{"begin": "<f=a>", "schema": {"type": "object"}, "end": "</f>"}],
        "triggers": ["<f="],
    }
    for given in (source, json.dumps(source)):
        assert conforms(given, "I call <f=a>{}</f>.")
        assert not conforms(given, "I call <f=b>{}</f>.")


@pytest.mark.parametrize(
    ("own", "good", "bad"),
    [
        (tag("<f>", OBJECT, "<|end|>"), ["<f>{}"], ["<f>"]),
        (
            {
                "type": "triggered_tags",
                "triggers": ["<|call|>"],
                "tags": [tag("<|call|>a", OBJECT, "<|end|>"), tag("<|call|>b", OBJECT, "")],
            },
            ["x", "x⟨<|call|>⟩a{}", "⟨<|call|>⟩b{}x⟨<|call|>⟩a{}"],
            ["x⟨<|call|>⟩a{}x", "⟨<|call|>⟩a{}⟨<|call|>⟩a{}"],
        ),
    ],
)
def test_a_token_that_ends_outputs_ends_the_tag(own: Format, good: list[str], bad: list[str]) -> None:
    source = {"type": "structural_tag", "format": own}
    assert [conforms(source, text) for text in [*good, *bad]] == [True] * len(good) + [False] * len(bad)


def test_schemas_in_a_tag_are_followed_as_those_by_themselves() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "null"}}}
    source = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    assert conforms(source, '{\n    "a" : null }')
    assert not conforms(source, '{\n\n"a": null}'), "a blank, or a line's end and indentation"
    loose = {"not": {"minimum": 1}, "x-guidance": {"lenient": True}}
    with pytest.raises(RequestError, match="not"):
        conforms({"type": "structural_tag", "format": {"type": "json_schema", "json_schema": loose}}, "")


def test_a_wrong_schema_in_a_tag_is_told_without_the_grammar_made_of_it() -> None:
    own = {"type": "json_schema", "json_schema": {"properties": {"a": {"$ref": "#/$defs/b"}}}}
    with pytest.raises(RequestError) as refusal:
        conforms({"type": "structural_tag", "format": own}, "")
    assert "'/$defs/b' does not exist" in str(refusal.value)
    assert "start" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({}, "format of structural_tag must be an object"),
        ([], "an object, got list"),
        ({"format": TEXT, "functions": [1]}, "functions of a structural tag is not supported"),
        ({"format": {"type": "xml"}}, "one of const_string, .*; got 'xml'"),
        ({"format": {"type": "any_tokens"}}, "got 'any_tokens'"),
        ({"format": {"type": "any_text", "max_tokens": 4}}, "max_tokens of any_text is not supported"),
        ({"format": {**OBJECT, "any_order": True}}, "any_order"),
        ({"format": {**OBJECT, "style": "glm_xml"}}, "style of a json_schema is one of json, qwen_xml, .*glm_xml"),
        ({"format": {"type": "json_schema"}}, "json_schema of json_schema must be a JSON schema"),
        ({"format": fixed(1)}, "value of const_string must be a text"),  # type: ignore[arg-type]
        ({"format": sequence(TEXT, OBJECT)}, "any_text must be followed by a fixed text"),
        ({"format": sequence({"type": "star", "content": TEXT}, fixed("a"))}, "needs an end of its own"),
        ({"format": calls(triggers=["<g="])}, "'<f=a>' does with 0"),
        ({"format": calls(triggers=["<f=", "<f=a"])}, "'<f=a>' does with 2"),
        ({"format": calls(at_least_one=1)}, "at_least_one of triggered_tags must be true or false"),
        ({"format": {"type": "token", "token": "<|no|>"}}, "neither a special token"),
        ({"format": {"type": "token", "token": 10_000}}, "nor the id of a token"),
        ({"format": {"type": "repeat", "min": 3, "max": 2, "content": TEXT}}, "min of repeat"),
        ({"format": {"type": "or", "elements": [OBJECT, fixed('{"name":')]}}, "cannot be told apart from JSON"),
        ({"format": {"type": "grammar", "grammar": "what"}}, "cannot be read"),
        ({"format": {"type": "regex", "pattern": "(?=a)"}}, "look-around|lookaround"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(source: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        CompiledGrammar(VOCABULARY, source_of(Grammar("structural_tag", json.dumps(source)), VOCABULARY.marks))
