"""/openapi.json tells what is sent: answers, events and errors are checked against it."""

import json
from typing import Any

import jsonschema_rs
import pytest

from server.conftest import Server

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def description(server: Server) -> dict[str, Any]:
    with server.http() as http:
        told: dict[str, Any] = http.get("/openapi.json").json()
    return told


def check(description: dict[str, Any], name: str, content: Any) -> None:
    """Hold a content to a schema of the description, whose objects may have no fields beside those told."""
    hold(description, {"$ref": f"#/components/schemas/{name}"}, content)


def hold(description: dict[str, Any], schema: dict[str, Any], content: Any) -> None:
    """The same, for a schema that refers to the description's."""
    schemas = json.loads(json.dumps(description["components"]["schemas"]))
    for own in schemas.values():
        if own.get("type") == "object" and "additionalProperties" not in own:
            own["additionalProperties"] = False
    jsonschema_rs.validator_for(schema | {"components": {"schemas": schemas}}).validate(content)


SHORT = {"max_tokens": 2, "ignore_eos": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
NAMED = {"logprob_token_ids": [5], "prompt_logprobs": 1, "return_token_ids": True, "stop_regex": "zz+"}
RANKED = {"query": {"text": "a"}, "documents": ["b", "c"], "top_n": 1, "return_documents": False}
ASKS: dict[str, list[dict[str, Any] | None]] = {
    "post /v1/chat/completions": [
        {"messages": MESSAGES} | SHORT,
        {"messages": MESSAGES, "logprobs": True, "n": 2} | SHORT | NAMED,
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2} | SHORT | USAGE,
    ],
    "post /v1/completions": [
        {"prompt": ["a", "b"]} | SHORT,
        {"prompt": "a", "logprobs": 2, "echo": True, "use_beam_search": True, "n": 2} | SHORT,
        {"prompt": "a", "logprobs": 0} | SHORT | NAMED,
        {"prompt": "a", "logprobs": 2, "echo": True} | SHORT | USAGE,
    ],
    "post /v1/messages": [
        {"messages": MESSAGES, "model": "smollm2", "max_tokens": 2},
        {"messages": MESSAGES, "model": "smollm2", "max_tokens": 2, "stream": True},
    ],
    "post /v1/messages/count_tokens": [{"messages": MESSAGES, "model": "smollm2"}],
    "post /v1/responses": [
        {"input": "a", "max_output_tokens": 2},
        {"input": "a", "max_output_tokens": 2, "stream": True},
    ],
    "post /v1/responses/input_tokens": [{"input": "a"}],
    "post /v1/embeddings": [{"input": ["a", "b"], "dimensions": 3}, {"input": [5, 6], "encoding_format": "base64"}],
    **{
        f"post /{path}": [{"query": "a", "documents": ["b", {"text": "c"}]}, RANKED]
        for path in ("rerank", "v1/rerank", "v2/rerank")
    },
    **{f"post /{path}": [{"text_1": "a", "text_2": ["b", "c"]}] for path in ("score", "v1/score")},
    "post /classify": [],  # this model has no classes
    "post /tokenize": [{"prompt": "a"}, {"messages": MESSAGES, "return_token_strs": True}],
    "post /detokenize": [{"tokens": [5, 6]}],
    **{
        f"get /{path}": [None]
        for path in (
            *("v1/models", "v1/models/{model}", "tokenizer_info", "version"),
            *("live", "ready", "health", "metrics"),
        )
    },
}
"""Bodies for every operation of the description: one that is new needs some here."""


def test_every_operation_tells_what_it_answers(description: dict[str, Any]) -> None:
    operations = {f"{method} {path}": op for path, own in description["paths"].items() for method, op in own.items()}
    assert operations.keys() == ASKS.keys(), "ASKS has bodies for every operation"
    for name, operation in operations.items():
        for status, told in operation["responses"].items():
            for media in told["content"].values():
                assert media["schema"], f"{name} does not say what its {status} holds"
        is_streamed = "text/event-stream" in operation["responses"]["200"]["content"]
        assert is_streamed == any(body and body.get("stream") for body in ASKS[name])


@pytest.mark.parametrize("operation", ASKS)
def test_whatever_is_answered_is_as_told(server: Server, description: dict[str, Any], operation: str) -> None:
    method, path = operation.split()
    told = description["paths"][path][method]["responses"]
    with server.http() as http:
        for body in ASKS[operation]:
            answer = http.request(method, path.replace("{model}", "smollm2"), json=body)
            assert answer.status_code == 200, answer.text
            media = told["200"]["content"][answer.headers["content-type"].split(";")[0]]
            if "x-event" in media:
                events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data:")]
                if "event: " not in answer.text:
                    assert events.pop() == "[DONE]"
                assert len(events) > 2
                for event in events:
                    hold(description, media["x-event"], json.loads(event))
            else:
                is_json = "json" in answer.headers["content-type"]
                hold(description, media["schema"], answer.json() if is_json else answer.text)


ASKED = {"max_tokens": 3, "n": 2, "return_token_ids": True, "prompt_logprobs": 1}


def test_answers_are_as_described(server: Server, description: dict[str, Any]) -> None:
    scored = {"logprobs": True, "top_logprobs": 2}
    with server.http() as http:
        for fields in (ASKED, {"max_tokens": 1}):
            check(description, "ChatCompletion", http.post(CHAT, json={"messages": MESSAGES} | scored | fields).json())
            check(
                description, "TextCompletion", http.post(COMPLETE, json={"prompt": "a", "logprobs": 2} | fields).json()
            )
        check(description, "ModelList", http.get("/v1/models").json())
        check(description, "ModelCard", http.get("/v1/models/smollm2").json())


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
def test_events_are_as_described(server: Server, description: dict[str, Any], path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body: dict[str, Any] = {"max_tokens": 3, "stream": True, "stream_options": options, "return_token_ids": True}
    body |= {"messages": MESSAGES, "logprobs": True} if path == CHAT else {"prompt": "a", "logprobs": 1, "echo": True}
    with server.http() as http, http.stream("POST", path, json=body) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    for event in events[:-1]:
        check(description, "ChatChunk" if path == CHAT else "TextCompletion", json.loads(event))


def test_errors_are_as_described(server: Server, description: dict[str, Any]) -> None:
    with server.http() as http:
        answers = [
            http.post(COMPLETE, json={"prompt": 1}),
            http.post(CHAT, json={"model": "x", "messages": MESSAGES}),
            http.get("/v1/models/x"),
            http.post(COMPLETE, content=b"{}", headers={"content-type": "text/plain"}),
        ]
    assert [answer.status_code for answer in answers] == [400, 404, 404, 415]
    operations = [(COMPLETE, "post"), (CHAT, "post"), ("/v1/models/{model}", "get"), (COMPLETE, "post")]
    for answer, (path, method) in zip(answers, operations, strict=True):
        told = description["paths"][path][method]["responses"][str(answer.status_code)]
        assert told["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")
        check(description, "ErrorAnswer", answer.json())


def test_every_reference_leads_somewhere_and_what_is_never_sent_is_not_told(description: dict[str, Any]) -> None:
    whole = json.dumps(description)
    assert "422" not in whole
    assert "HTTPValidationError" not in whole
    schemas = description["components"]["schemas"]
    for reference in whole.split('"$ref": "')[1:]:
        assert reference.split('"')[0].rpartition("/")[2] in schemas
    answers = description["paths"][CHAT]["post"]["responses"]["200"]["content"]
    assert answers.keys() == {"application/json", "text/event-stream"}
    assert description["paths"]["/metrics"]["get"]["responses"]["200"]["content"].keys() == {"text/plain"}
    assert description["paths"][COMPLETE]["post"]["requestBody"]["required"] is True


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    ],
)
def test_messages_are_described(server: Server, description: dict[str, Any], message: dict[str, Any]) -> None:
    """So that what is made from the description, a client or a test, reaches the model."""
    described = {"$ref": "#/components/schemas/ChatBody", "components": description["components"]}
    validator = jsonschema_rs.validator_for(described)
    body = {"messages": [MESSAGES[0], message], "max_tokens": 1}
    validator.validate(body)
    with server.http() as http:
        assert http.post(CHAT, json=body).status_code == 200
        for wrong in ({"content": "a"}, {"role": "user", "content": 5}, {"role": "user", "content": [{"text": "a"}]}):
            assert not validator.is_valid({"messages": [wrong]})
            assert http.post(CHAT, json={"messages": [wrong]}).status_code == 400
