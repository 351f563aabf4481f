"""Beam search through the `openai` package: extra body parameters of completions and chat completions."""

from typing import Any

from openai import OpenAI

from octavo import LLM, BeamSearchParams
from server.conftest import Server

ASK: dict[str, Any] = {"model": "smollm2", "prompt": "The sea is", "max_tokens": 12}


def test_a_search_gives_the_engines_hypotheses_best_first(client: OpenAI, smollm2: LLM) -> None:
    answer = client.completions.create(**ASK, n=3, logprobs=0, extra_body={"use_beam_search": True})
    [wanted] = smollm2.beam_search("The sea is", BeamSearchParams(beam_width=3, max_tokens=12), use_tqdm=False)
    assert [choice.text for choice in answer.choices] == [output.text for output in wanted.outputs]
    sums = [sum(choice.logprobs.token_logprobs) for choice in answer.choices if choice.logprobs]
    assert sums == sorted(sums, reverse=True)
    assert len(set(sums)) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 36


def test_best_of_widens_the_search_and_the_other_fields_shape_it(client: OpenAI, smollm2: LLM) -> None:
    extra = {"use_beam_search": True, "length_penalty": 0.5, "early_stopping": "never", "ignore_eos": True}
    answer = client.completions.create(**ASK, n=2, best_of=6, extra_body=extra)
    params = BeamSearchParams(
        beam_width=6, n=2, max_tokens=12, length_penalty=0.5, early_stopping="never", ignore_eos=True
    )
    [wanted] = smollm2.beam_search("The sea is", params, use_tqdm=False)
    assert [choice.text for choice in answer.choices] == [output.text for output in wanted.outputs]


def test_a_streamed_chat_gets_each_hypothesis_whole(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Name a colour."}]
    ask: dict[str, Any] = {"model": "smollm2", "messages": messages, "max_tokens": 12, "n": 2}
    extra = {"use_beam_search": True}
    whole = client.chat.completions.create(**ask, extra_body=extra)
    texts: dict[int, list[str]] = {0: [], 1: []}
    for chunk in client.chat.completions.create(**ask, stream=True, extra_body=extra):
        for choice in chunk.choices:
            if choice.delta.content:
                texts[choice.index].append(choice.delta.content)
    assert [texts[choice.index] for choice in whole.choices] == [[choice.message.content] for choice in whole.choices]


def test_searches_run_beside_drawn_and_greedy_requests(server: Server) -> None:
    import asyncio

    async def ask(**options: Any) -> list[str]:
        async with server.openai_async() as client:
            answer = await client.completions.create(**ASK | options)
        return [choice.text for choice in answer.choices]

    async def together(*asks: dict[str, Any]) -> list[list[str]]:
        return await asyncio.gather(*(ask(**each) for each in asks))

    asks: list[dict[str, Any]] = [
        {"n": 4, "extra_body": {"use_beam_search": True}},
        {"temperature": 0},
        {"n": 2, "seed": 5},
        {"prompt": "One, two,", "n": 2, "extra_body": {"use_beam_search": True}},
    ]
    assert asyncio.run(together(*asks)) == [asyncio.run(ask(**each)) for each in asks]
