"""Structured answers through the server: each conforms, or its request is refused with a reason."""

import asyncio
import json
import re
from typing import Any, Literal

import jsonschema
import pytest
from openai import OpenAI
from pydantic import BaseModel

from octavo.sampling.grammar_bounds import GrammarBounds
from octavo.structured_outputs import Grammar
from server.conftest import Server, serving

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me about a cat."}]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Cat(BaseModel):
    """What `chat.completions.parse` reads answers into."""

    kind: Literal["tabby", "black"]
    lives: Literal[7, 9]
    tail: bool | None


def answer(server: Server, path: str, **fields: Any) -> tuple[str, str]:
    """The text of an answer and how it ended."""
    start = {"messages": MESSAGES} if path == CHAT else {"prompt": "A cat:"}
    with server.http() as http:
        answer = http.post(path, json={**start, "max_tokens": 60, "temperature": 0, **fields})
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    return (choice["text"] if path == COMPLETE else choice["message"]["content"]), choice["finish_reason"]


def refusal(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    start = {"messages": MESSAGES} if path == CHAT else {"prompt": "a"}
    with server.http() as http:
        answer = http.post(path, json={**start, "max_tokens": 1, **fields})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def is_person(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(PERSON).is_valid(json.loads(text)))


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}},
        {"response_format": {"type": "json_object", "schema": PERSON}},
        {"structured_outputs": {"json": PERSON}},
        {"guided_json": PERSON, "guided_decoding_backend": "outlines"},
        {"guided_json": json.dumps(PERSON), "guided_whitespace_pattern": " ?"},
        {"json_schema": json.dumps(PERSON)},
        {"grammar": {"type": "json", "value": PERSON}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_way_to_give_a_schema_is_carried_out(server: Server, path: str, fields: dict[str, Any]) -> None:
    text, finish_reason = answer(server, path, **fields)
    assert finish_reason == "stop"
    assert is_person(text)


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "(cat|dog) [0-9]{2}"}}, "(cat|dog) [0-9]{2}"),
        ({"guided_regex": "x{3}"}, "xxx"),
        ({"regex": "[é ]{4}"}, "[é ]{4}"),
        ({"grammar": {"type": "regex", "value": "a+b"}}, "a+b"),
        ({"structured_outputs": {"choice": ["white", "black"]}}, "white|black"),
        ({"guided_choice": ["no way", "yes"]}, "no way|yes"),
        ({"guided_grammar": 'start: "a" | "(" start ")"'}, r"\(*a\)*"),
        ({"ebnf": 'root ::= "a" [0-9]'}, "a[0-9]"),
        ({"grammar": 'root ::= ("a" | "b") root | "c"'}, "[ab]*c"),
    ],
    ids=str,
)
def test_regexes_choices_and_grammars_are_carried_out(
    server: Server, path: str, fields: dict[str, Any], pattern: str
) -> None:
    text, finish_reason = answer(server, path, **fields, max_tokens=12)
    assert finish_reason == "length" or re.fullmatch(pattern, text)


TAG: dict[str, Any] = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": "<call>",
        "content": {"type": "json_schema", "json_schema": PERSON},
        "end": "</call>",
    },
}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": TAG},
        {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
        {"structural_tag": TAG},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_structural_tags_are_carried_out(server: Server, fields: dict[str, Any]) -> None:
    text, finish_reason = answer(server, COMPLETE, **fields)
    assert finish_reason == "stop"
    assert is_person(text.removeprefix("<call>").removesuffix("</call>"))


def test_an_answer_that_max_tokens_cuts_ends_by_length(server: Server) -> None:
    text, finish_reason = answer(server, CHAT, guided_json=PERSON, max_tokens=3)
    assert finish_reason == "length"
    assert text.lstrip().startswith("{")


def test_whatever_asks_for_nothing_holds_the_answer_to_nothing(server: Server) -> None:
    plain = answer(server, COMPLETE, max_tokens=4)
    nothing = {"response_format": {"type": "text"}, "grammar": "", "guided_json_object": False, "regex": None}
    assert answer(server, COMPLETE, max_tokens=4, **nothing) == plain


def test_the_client_parses_answers_into_models(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smollm2", messages=MESSAGES, response_format=Cat, max_tokens=60, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Cat)


def test_a_stream_holds_what_the_whole_answer_does(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
    asked: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 60, "temperature": 0}
    chunks = client.chat.completions.create(**asked, response_format=form, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = client.chat.completions.create(**asked, response_format=form)
    assert text == whole.choices[0].message.content
    assert is_person(text)


def test_answers_of_one_request_and_beams_conform_each(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "prompt": "A cat:", "max_tokens": 60}
    drawn = client.completions.create(**asked, n=4, temperature=1.5, extra_body={"guided_json": PERSON})
    found = client.completions.create(**asked, n=2, extra_body={"guided_json": PERSON, "use_beam_search": True})
    ended = [choice for choice in [*drawn.choices, *found.choices] if choice.finish_reason == "stop"]
    assert ended
    assert all(is_person(choice.text) for choice in ended)
    assert len({choice.text for choice in drawn.choices}) > 1


def test_constrained_requests_and_others_run_together(server: Server) -> None:
    async def ask(number: int) -> tuple[int, str, str]:
        extra = [{"guided_json": PERSON}, {}, {"guided_regex": "[ab]{9}"}, {"guided_choice": ["yes", "no"]}][number % 4]
        async with server.openai_async() as client:
            answer = await client.completions.create(
                model="smollm2", prompt="A cat:", max_tokens=60 if extra else 8, temperature=0, extra_body=extra
            )
        return number, answer.choices[0].text, answer.choices[0].finish_reason

    async def together() -> list[tuple[int, str, str]]:
        return await asyncio.gather(*(ask(number) for number in range(12)))

    plain = answer(server, COMPLETE, max_tokens=8)[0]
    for number, text, _ in asyncio.run(together()):
        conforms = (is_person, plain.__eq__, re.compile("[ab]{9}").fullmatch, ["yes", "no"].__contains__)[number % 4]
        assert conforms(text)


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guided_regex": "a", "ebnf": "b"}, "ebnf", "guided_regex and ebnf both"),
        ({"response_format": {"type": "json_object"}, "guided_json": {}}, "guided_json", "both"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "given: json and regex"),
        ({"structured_outputs": {}}, "structured_outputs", "given: none"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs", "format of structural_tag"),
        ({"response_format": {"type": "xml"}}, "response_format", "one of text, json_object, json_schema, struct"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema must be an object"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format",
            "name must be",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
            "response_format",
            "schema must be an object",
        ),
        ({"guided_json": "{"}, "guided_json", "not valid JSON"),
        ({"guided_regex": "(?=a)"}, "guided_regex", "look-around"),
        ({"response_format": {"type": "structural_tag", "format": {"type": "x"}}}, "response_format", "const_string"),
        ({"guided_choice": []}, "guided_choice", "not empty"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar", "'x' not found"),
        ({"guided_whitespace_pattern": "x", "regex": "a"}, "guided_whitespace_pattern", "is for guided_json"),
        ({"grammar": {"type": "xml", "value": "a"}}, "grammar", "must be a text"),
    ],
    ids=str,
)
def test_what_cannot_be_carried_out_is_refused_by_name(
    server: Server, path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    error = refusal(server, path, **fields)
    assert error["param"] == param
    assert words in error["message"]


MANY = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(4000)}}
CHAIN = {f"d{number}": {"type": "array", "items": {"$ref": f"#/$defs/d{number + 1}"}} for number in range(4000)}
NESTED = {"type": "tag", "begin": "a", "content": {"type": "any_text"}, "end": ["b", "c"]}
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"guided_regex": "(a{1000}){1000}"}, "--max-grammar-repeats"),
    ({"guided_regex": "(a{10}){1000}" * 20}, "--max-grammar-repeats"),
    ({"guided_json": {"type": "string", "pattern": "^(x{999}){999}$"}}, "--max-grammar-repeats"),
    ({"guided_regex": "(" * 100 + ")" * 100}, "--max-grammar-depth"),
    ({"guided_grammar": "start: " + "(" * 100 + '"a"' + ")" * 100}, "--max-grammar-depth"),
    ({"guided_json": json.loads('{"items":' * 100 + "{}" + "}" * 100)}, "--max-grammar-depth"),
    ({"guided_choice": ["a" * 300_000]}, "--max-grammar-bytes"),
    ({"structural_tag": {"format": {"type": "regex", "pattern": "(a{1000}){1000}"}}}, "--max-grammar-repeats"),
    (
        {"structural_tag": {"format": {"type": "repeat", "min": 0, "max": 10**9}}},
        "--max-grammar-repeats",
    ),
    ({"structural_tag": {"format": {"type": "or", "elements": [NESTED] * 2000}}}, ""),
    ({"guided_json": MANY}, "--max-grammar-time"),
    ({"guided_json": {"$ref": "#/$defs/d0", "$defs": {**CHAIN, "d4000": {}}}}, "too complex"),
    ({"guided_json": {"$ref": "#"}}, "conforms"),
    ({"guided_json": {"type": "object", "properties": {f"p{number}": {} for number in range(600)}}}, "2000"),
    ({"guided_regex": "x(.*a.{60}b.*){3}&&"}, ""),
    ({"guided_regex": "(a+)+(a+)+(a|a?)+b"}, ""),
    ({"guided_json": {"enum": [f"value {number}" for number in range(9000)]}}, ""),
    ({"guided_grammar": 'start: s\ns: s s s | s s | "a" | "aa" | ""'}, ""),
]


@pytest.mark.parametrize(("fields", "words"), HOSTILE, ids=lambda each: str(each)[:30])
def test_hostile_grammars_are_refused_or_bounded_and_the_server_goes_on(
    server: Server, fields: dict[str, Any], words: str
) -> None:
    with server.http() as http:
        told = http.post(COMPLETE, json={"prompt": "a", "max_tokens": 4, **fields})
    if words:
        assert told.status_code == 400, told.text
        assert words in told.json()["error"]["message"]
    else:
        assert told.status_code in (200, 400), told.text
    assert answer(server, COMPLETE, guided_choice=["yes"], max_tokens=4)[0] == "yes"


def test_the_caps_are_flags(server: Server) -> None:
    with serving(
        server.background, max_grammar_bytes="20000", max_grammar_depth=3, max_grammar_repeats=5, max_grammar_time=5.0
    ) as strict:
        assert "max-grammar-bytes" in refusal(strict, COMPLETE, guided_regex="a" * 20_001)["message"]
        assert "max-grammar-depth" in refusal(strict, COMPLETE, guided_json={"a": [[[1]]]})["message"]
        assert "max-grammar-repeats" in refusal(strict, COMPLETE, guided_regex="a{7}")["message"]
        assert answer(strict, COMPLETE, guided_regex="a{6}")[0] == "a" * 6


@pytest.mark.parametrize(
    ("grammar", "depth", "repeats"),
    [
        (Grammar("regex", "abc"), 0, 0),
        (Grammar("regex", "a{5}"), 0, 4),
        (Grammar("regex", "a{2,}(b{1,3}|[c{9}]){,4}x{7}"), 1, 1 + 2 + 6),
        (Grammar("regex", r"\((a(b{3}){4}){2}"), 2, 11 + 13),
        (Grammar("grammar", 'start: "((((" a\na: /b{10}/'), 0, 9),
        (Grammar("json_schema", '{"items":{"pattern":"a{9}","patternProperties":{"b{3}":{}}}}'), 3, 8 + 2),
        (Grammar("choice", '["((a{99}"]'), 0, 0),
        (Grammar("structural_tag", '{"format":{"type":"grammar","grammar":"start: /a{5}/ \\"((\\""}}'), 2, 4),
        (Grammar("structural_tag", '{"format":{"type":"repeat","max":7,"content":{"pattern":"a{3}"}}}'), 3, 7 + 2),
        (Grammar("json_object"), 0, 0),
    ],
)
def test_depth_and_repetitions_are_counted(grammar: Grammar, depth: int, repeats: int) -> None:
    def bounds(depth: int, repeats: int) -> GrammarBounds:
        return GrammarBounds(
            max_grammar_bytes=1000, max_grammar_depth=depth, max_grammar_repeats=repeats, max_grammar_time=1
        )

    bounds(depth, repeats).check_size(grammar)
    if depth:
        with pytest.raises(ValueError, match="levels"):
            bounds(depth - 1, repeats).check_size(grammar)
    if repeats:
        with pytest.raises(ValueError, match="repetitions"):
            bounds(depth, repeats - 1).check_size(grammar)
