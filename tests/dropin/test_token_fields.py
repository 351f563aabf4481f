"""Fields that name tokens: those that may be generated, those that may not, and those that are told of."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import RequestError
from server.conftest import Server
from tiny_checkpoints import make_llama

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "a"}]
SEA = {"prompt": "The sea is", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = make_llama(tmp_path_factory.mktemp("checkpoint"))
    with LLM(str(folder), tokenizer="smollm2", kv_cache_memory="4MiB") as llm:
        yield llm


def post(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    with server.http() as http:
        answer = http.post(path, json=({"messages": MESSAGES} if path == CHAT else SEA) | fields)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def refusal(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    with server.http() as http:
        answer = http.post(path, json=({"messages": MESSAGES} if path == CHAT else SEA) | fields)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_completion_tells_of_the_named_tokens_at_every_position(server: Server) -> None:
    named = {"logprobs": 1, "logprob_token_ids": [5, 504], "return_tokens_as_token_ids": True, "return_token_ids": True}
    choice = post(server, COMPLETE, **named)["choices"][0]
    told = choice["logprobs"]["top_logprobs"]
    assert len(told) == 4
    for position, token, logprob in zip(told, choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True):
        assert position.keys() == {f"token_id:{token}", "token_id:5", "token_id:504"}
        assert position[f"token_id:{token}"] == logprob
    whole = {"logprobs": 20, "return_tokens_as_token_ids": True}
    likeliest = post(server, COMPLETE, **whole)["choices"][0]["logprobs"]["top_logprobs"]
    for position, others in zip(told, likeliest, strict=True):
        for name in position.keys() & others.keys():
            assert position[name] == pytest.approx(others[name], abs=1e-4)


def test_a_chat_and_its_stream_tell_of_the_named_tokens(server: Server) -> None:
    asked = {"logprobs": True, "logprob_token_ids": [5, 504], "max_tokens": 3, "temperature": 0}
    asked["return_tokens_as_token_ids"] = True
    content = post(server, CHAT, **asked)["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    for position in content:
        assert {each["token"] for each in position["top_logprobs"]} == {position["token"], "token_id:5", "token_id:504"}
    body = {"messages": MESSAGES, "stream": True} | asked
    with server.http() as http, http.stream("POST", CHAT, json=body) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: {")]
    told = [event["choices"][0]["logprobs"] for event in events]
    assert [position for each in told if each for position in each["content"]] == content


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_named_tokens_are_refused_where_they_cannot_be_told(server: Server, path: str) -> None:
    scored = {"logprobs": 1} if path == COMPLETE else {"logprobs": True}
    error = refusal(server, path, logprob_token_ids=[5])
    assert (error["param"], "needs logprobs" in error["message"]) == ("logprob_token_ids", True)
    assert (
        "logprob_token_ids holds token id 49152"
        in refusal(server, path, logprob_token_ids=[49152], **scored)["message"]
    )
    assert "128: raise --max-logprobs" in refusal(server, path, logprob_token_ids=[5] * 129, **scored)["message"]
    assert (
        "logprob_token_ids" in refusal(server, path, logprob_token_ids=[5], use_beam_search=True, **scored)["message"]
    )
    assert post(server, path, logprob_token_ids=[], max_tokens=1)["choices"]


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_only_allowed_tokens_are_generated_by_either_endpoint(server: Server, path: str) -> None:
    asked = {"max_tokens": 6, "temperature": 3.0, "seed": 1, "ignore_eos": True, "return_token_ids": True}
    tokens = post(server, path, allowed_token_ids=[504, 505], **asked)["choices"][0]["token_ids"]
    assert len(tokens) == 6
    assert set(tokens) <= {504, 505}
    assert "allowed_token_ids holds token id 49152" in refusal(server, path, allowed_token_ids=[1, 49152])["message"]
    assert "allowed_token_ids" in refusal(server, path, allowed_token_ids=[])["message"]
    many = refusal(server, path, allowed_token_ids=list(range(4097)))
    assert (many["param"], "--max-token-ids" in many["message"]) == ("allowed_token_ids", True)


def test_an_llm_tells_of_the_named_tokens_and_the_sampled_one(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, n=2, logprob_token_ids=[5, 50])
    [output] = llm.generate([1, 2, 3], params, use_tqdm=False)
    for sequence in output.outputs:
        assert sequence.logprobs is not None
        for token, position in zip(sequence.token_ids, sequence.logprobs, strict=True):
            assert list(position) == list(dict.fromkeys([token, 5, 50]))
            assert position[token].rank == 1
            assert position[5].rank > 1
        assert sequence.cumulative_logprob == pytest.approx(
            sum(position[token].logprob for token, position in zip(sequence.token_ids, sequence.logprobs, strict=True))
        )


def test_parameters_may_count_the_named_tokens_but_not_otherwise() -> None:
    assert SamplingParams(logprob_token_ids=[5, 6], logprobs=2).tells_logprobs
    for wrong in (3, 0):
        with pytest.raises(RequestError, match=r"logprobs must be left out, or the number of logprob_token_ids \(2\)"):
            SamplingParams(logprob_token_ids=[5, 6], logprobs=wrong)
    refused: list[Any] = [[], ["a"], [-1], 5]
    for ids in refused:
        with pytest.raises(RequestError, match="logprob_token_ids"):
            SamplingParams(logprob_token_ids=ids)
