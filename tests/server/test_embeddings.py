"""Vectors and scores over HTTP: as OpenAI's client, Jina's and vLLM's endpoints have them."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from e2e.test_encoders import EMBEDS, make_bert
from octavo.config import EngineConfig
from server.conftest import Server, running_engine, send, serving, until

TEXTS = ["The sea is wide.", "A cat sat on the mat.", "Bananas are yellow."]
QUERY = "Which animal sat on the mat?"


def vectors(client: OpenAI, given: Any, **fields: Any) -> list[list[float]]:
    answer = client.embeddings.create(model="smollm2", input=given, **fields)
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return [each.embedding for each in answer.data]


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    with server.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    read: dict[str, Any] = answer.json()
    return read


def test_openais_client_gets_the_same_unit_vectors_in_every_form(server: Server, client: OpenAI) -> None:
    many = vectors(client, TEXTS)  # the client asks for base64
    assert [len(vector) for vector in many] == [576] * 3
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-6) for vector in many)
    assert vectors(client, TEXTS, encoding_format="float") == many
    assert vectors(client, TEXTS[1]) == many[1:2]
    token_ids = [server.front.tokenizer.encode(text) for text in TEXTS]
    assert vectors(client, token_ids) == many
    assert vectors(client, token_ids[2]) == many[2:]
    usage = client.embeddings.create(model="smollm2", input=TEXTS).usage
    assert usage.prompt_tokens == usage.total_tokens == sum(map(len, token_ids))


def test_the_bytes_of_a_vector_are_float32_the_lowest_first(server: Server, client: OpenAI) -> None:
    told = post(server, "/v1/embeddings", input=TEXTS[0], encoding_format="base64", user="somebody")
    content = base64.b64decode(told["data"][0]["embedding"])
    assert list(struct.unpack("<576f", content)) == vectors(client, TEXTS[0])[0]


def test_fewer_dimensions_are_the_first_ones_normalised_again(client: OpenAI) -> None:
    [whole], [short] = vectors(client, TEXTS[0]), vectors(client, TEXTS[0], dimensions=32)
    length = math.hypot(*whole[:32])
    assert short == pytest.approx([number / length for number in whole[:32]], rel=1e-5)
    [raw] = vectors(client, TEXTS[0], extra_body={"normalize": False})
    assert math.hypot(*raw) > 2
    assert whole == pytest.approx([number / math.hypot(*raw) for number in raw], rel=1e-5)


def test_a_prompt_is_cut_where_the_request_says(server: Server, client: OpenAI) -> None:
    token_ids = server.front.tokenizer.encode(TEXTS[1])
    for fields, kept in (
        ({"truncate_prompt_tokens": 3}, token_ids[-3:]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, token_ids[:3]),
        ({"truncate_prompt_tokens": -1}, token_ids),
    ):
        assert vectors(client, TEXTS[1], extra_body=fields) == vectors(client, kept)
        assert vectors(client, token_ids, extra_body=fields) == vectors(client, kept)
    long = "sea " * 2000
    assert vectors(client, long, extra_body={"truncate_prompt_tokens": -1}) == vectors(
        client, server.front.tokenizer.encode(long)[-512:]
    )


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/embeddings", {"input": []}, "input is an empty list"),
        ("/v1/embeddings", {"input": ["a", ""]}, "input 1: the prompt is empty"),
        ("/v1/embeddings", {"input": "sea " * 600}, "maximum context length is 512 tokens.*has 601 tokens; shorten"),
        ("/v1/embeddings", {"input": [3, 49152]}, "token id 49152"),
        ("/v1/embeddings", {"input": "a", "dimensions": 577}, "dimensions=577 is over the 576"),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens is 0"),
        ("/v1/embeddings", {"input": "a", "messages": [{"role": "user", "content": "a"}]}, "messages is not supported"),
        ("/v1/embeddings", {"input": ["a", 3]}, "input"),
        ("/v1/embeddings", {}, "input"),
        ("/classify", {"input": "a"}, "no task 'classify'; it has 'embed' ./v1/embeddings.*'generate'"),
        ("/rerank", {"query": "a", "documents": []}, "documents is an empty list"),
        ("/rerank", {"query": "a", "documents": [{"text": "b", "image": "c"}]}, "documents: .*Extra inputs"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ("/rerank", {"query": "a", "documents": ["b"], "rank_fields": ["title"]}, "rank_fields is not supported"),
        ("/rerank", {"query": "a", "documents": ["b"], "truncate_prompt_tokens": 9}, "would cut the question"),
        ("/score", {"text_1": "a"}, "send text_1 and text_2"),
        ("/score", {"text_1": "a", "text_2": "b", "queries": "c"}, "send text_1 and text_2"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "2 and 1 texts make no pairs"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(server: Server, path: str, body: dict[str, Any], words: str) -> None:
    with server.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 400
    with pytest.raises(ValueError, match=words):
        raise ValueError(answer.json()["error"]["message"])


def test_more_inputs_than_the_cap_are_refused_and_another_model_is_not_found(serve: Any) -> None:
    with serve(max_prompts=2) as server:
        client = server.openai()
        assert len(vectors(client, ["a", "b"])) == 2
        with pytest.raises(BadRequestError, match=r"input has 3 entries.*--max-prompts"):
            vectors(client, ["a", "b", "c"])
        with server.http() as http:
            documents = http.post("/rerank", json={"query": "a", "documents": ["b"] * 3})
            assert "--max-prompts" in documents.text
            assert http.post("/v1/embeddings", json={"input": "a", "model": "other"}).status_code == 404


def test_vectors_and_answers_asked_for_at_once_are_those_asked_for_alone(server: Server) -> None:
    client = server.openai_async()
    asked: dict[str, Any] = {"model": "smollm2", "prompt": "The sea is", "max_tokens": 12, "temperature": 0}

    async def vector(text: str) -> list[float]:
        return (await client.embeddings.create(model="smollm2", input=text)).data[0].embedding

    async def answer() -> str:
        text: str = (await client.completions.create(**asked)).choices[0].text
        return text

    async def at_once() -> list[Any]:
        return await asyncio.gather(answer(), *(vector(text) for text in TEXTS * 2), answer())

    async def one_by_one() -> list[Any]:
        found = [await vector(text) for text in TEXTS]
        return [await answer(), *found * 2, await answer()]

    async def both() -> None:
        assert await at_once() == await one_by_one()

    asyncio.run(both())
    until(server.background.is_idle)


def test_documents_are_ranked_by_what_the_model_says_of_them(server: Server) -> None:
    scored = post(server, "/v1/score", text_1=QUERY, text_2=TEXTS)
    scores = [each["score"] for each in scored["data"]]
    assert all(0 < score < 1 for score in scores)
    ranked = post(server, "/v1/rerank", query=QUERY, documents=[TEXTS[0], *({"text": text} for text in TEXTS[1:])])
    order = [each["index"] for each in ranked["results"]]
    assert order == sorted(range(3), key=lambda index: -scores[index])
    assert [each["relevance_score"] for each in ranked["results"]] == [scores[index] for index in order]
    assert [each["document"]["text"] for each in ranked["results"]] == [TEXTS[index] for index in order]
    best = post(server, "/v2/rerank", query={"text": QUERY}, documents=TEXTS, top_n=1, return_documents=False)
    assert best["results"] == [{"index": order[0], "relevance_score": scores[order[0]]}]
    logits = post(server, "/score", queries=QUERY, documents=TEXTS, use_activation=False)
    assert len({each["score"] for each in logits["data"]}) == 3


def test_a_score_is_how_much_likelier_yes_is_than_no(server: Server) -> None:
    tokenizer, yes_no = server.front.tokenizer, server.front.yes_no
    assert tokenizer.decode(yes_no.label_token_ids) == "noyes"
    prompt = tokenizer.encode_rendered(tokenizer.render(yes_no.question(QUERY, TEXTS[1])))
    likely = []
    for token_id in yes_no.label_token_ids:
        forced = {"max_tokens": 1, "logit_bias": {str(token_id): 100}, "logprobs": 0}
        told = post(server, "/v1/completions", prompt=prompt, **forced)
        likely.append(math.exp(told["choices"][0]["logprobs"]["token_logprobs"][0]))
    [score] = post(server, "/score", text_1=QUERY, text_2=TEXTS[1])["data"]
    assert score["score"] == pytest.approx(likely[1] / sum(likely), rel=1e-4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that was made to embed, and generates nothing."""
    folder = make_bert(tmp_path_factory.mktemp("bert"), "BertModel", EMBEDS)
    config = EngineConfig(model=str(folder), kv_cache_memory="4MiB", seed=0)
    with running_engine(config) as background, serving(background) as server:
        yield server


def test_a_model_that_embeds_scores_by_the_likeness_of_vectors(encoder: Server) -> None:
    found = post(encoder, "/v1/embeddings", input=TEXTS)["data"]
    vectors = [each["embedding"] for each in found]
    ahead = post(encoder, "/score", text_1=TEXTS[0], text_2=TEXTS)["data"]
    products = [sum(a * b for a, b in zip(vectors[0], vector, strict=True)) for vector in vectors]
    assert [each["score"] for each in ahead] == pytest.approx(products, abs=1e-6)
    assert ahead[0]["score"] == pytest.approx(1)
    back = post(encoder, "/score", data_1=TEXTS, data_2=[TEXTS[0]] * 3)["data"]
    assert [each["score"] for each in back] == [each["score"] for each in ahead]
    ranked = post(encoder, "/rerank", query=TEXTS[0], documents=TEXTS)["results"]
    assert ranked[0]["index"] == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4}),
    ],
)
def test_a_model_that_only_embeds_refuses_to_generate_by_name(encoder: Server, path: str, body: dict[str, Any]) -> None:
    with encoder.http() as http:
        answer = http.post(path, json={"model": "smollm2", **body})
    assert answer.status_code == 400
    assert "no task 'generate'; it has 'embed' (/v1/embeddings)" in answer.json()["error"]["message"]


def test_leaving_while_many_inputs_wait_frees_all(server: Server) -> None:
    connection = send(server, {"input": ["sea " * 400] * 12}, path="/v1/embeddings")
    until(lambda: 0 < server.front.client.num_open < 12)
    connection.close()
    until(lambda: server.num_in_server == 0 and server.background.is_idle())


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "octavo.requests"]


def test_the_log_and_the_metrics_tell_of_inputs(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    def counted() -> float:
        with server.http() as http:
            lines = http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prompt_tokens_total"))

    before = counted()
    with caplog.at_level("INFO"):
        told = post(server, "/v1/embeddings", input=TEXTS)
        until(lambda: bool(logged(caplog)))  # written once the answer is sent
    assert counted() == before + told["usage"]["prompt_tokens"]
    [line] = logged(caplog)
    assert line["prompt_tokens"] == told["usage"]["prompt_tokens"]
    assert line["finish_reasons"] == ["stop"] * 3


def test_the_description_names_bodies_and_answers(server: Server) -> None:
    with server.http() as http:
        described = http.get("/openapi.json").json()
    for path, answer in (
        ("/v1/embeddings", "EmbeddingList"),
        ("/v2/rerank", "Ranking"),
        ("/score", "ScoreList"),
        ("/classify", "ClassificationList"),
    ):
        schema = described["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith(answer)
        assert answer in described["components"]["schemas"]
