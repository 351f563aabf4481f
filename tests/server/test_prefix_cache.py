"""What a client sees of the prefix cache: cached tokens in the usage, and only its own."""

import uuid
from typing import Any

from openai import OpenAI

BLOCK_SIZE = 16


def story() -> str:
    """A text of some hundred tokens that nobody has sent yet."""
    return f"Story {uuid.uuid4().hex}. " + "Once upon a time there was a fox who lived by the sea. " * 8


def cached_and_prompt_tokens(client: OpenAI, prompt: str, **extra: Any) -> tuple[int, int]:
    usage = client.completions.create(model="smollm2", prompt=prompt, max_tokens=1, extra_body=extra).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens is not None
    return usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens


def test_the_usage_tells_how_much_of_the_prompt_was_cached(client: OpenAI) -> None:
    prompt = story()
    cached, num_prompt = cached_and_prompt_tokens(client, prompt)
    assert (cached, num_prompt > 5 * BLOCK_SIZE) == (0, True)
    full_blocks = (num_prompt - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert cached_and_prompt_tokens(client, prompt)[0] == full_blocks
    assert cached_and_prompt_tokens(client, prompt + "And then it left.")[0] >= full_blocks - BLOCK_SIZE
    assert cached_and_prompt_tokens(client, prompt, prompt_logprobs=0)[0] == 0, "scores need the prompt computed"


def test_the_next_turn_of_a_chat_finds_the_last_one_and_its_answer(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": story()}]
    stream_options: Any = {"include_usage": True}
    turns = []
    for _ in range(2):
        answer, usage = "", None
        for chunk in client.chat.completions.create(
            model="smollm2", messages=messages, max_tokens=40, temperature=0, stream=True, stream_options=stream_options
        ):
            answer += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage = chunk.usage or usage
        assert usage is not None
        turns.append(usage)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    first, second = turns
    assert second.prompt_tokens_details is not None
    assert second.prompt_tokens_details.cached_tokens is not None
    assert second.prompt_tokens_details.cached_tokens > first.prompt_tokens, "the answer's blocks were found as well"


def test_tenants_share_nothing_and_a_salt_divides_one_tenants_requests(serve: Any) -> None:
    prompt = story()
    with serve(api_key=("first", "second")) as server:
        first, second = server.openai("first"), server.openai("second")
        assert cached_and_prompt_tokens(first, prompt)[0] == 0
        assert cached_and_prompt_tokens(second, prompt)[0] == 0
        assert cached_and_prompt_tokens(first, prompt, cache_salt="pepper")[0] == 0
        assert cached_and_prompt_tokens(second, prompt, cache_salt="pepper")[0] == 0
        for client, salt in ((first, {}), (second, {}), (first, {"cache_salt": "pepper"})):
            assert cached_and_prompt_tokens(client, prompt, **salt)[0] > 5 * BLOCK_SIZE


def test_an_empty_salt_is_refused(server: Any) -> None:
    with server.http() as http:
        answer = http.post("/v1/completions", json={"prompt": "a", "cache_salt": ""})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache_salt"


def test_metrics_count_what_the_cache_was_asked_for_and_what_it_had(server: Any, client: OpenAI) -> None:
    def counts() -> tuple[float, float]:
        with server.http() as http:
            lines = [line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if line[:1] != "#"]
        values = {name.partition("{")[0]: float(value) for name, value in lines}
        return values["vllm:prefix_cache_queries_total"], values["vllm:prefix_cache_hits_total"]

    prompt = story()
    _, num_prompt = cached_and_prompt_tokens(client, prompt)
    asked, had = counts()
    cached, _ = cached_and_prompt_tokens(client, prompt)
    assert counts() == (asked + num_prompt, had + cached)
