"""A request's tokens depend on its own prompt, parameters and seed, not on the batch, the pool or the chunks: exact in
float64."""

import pytest

from octavo import LLM, RequestOutput, SamplingParams
from tiny_checkpoints import make_llama

BLOCK_BYTES = 2 * 2 * 16 * 2 * 8 * 8
"""K and V, 2 layers, 16 tokens, 2 KV heads of 8, float64: the tiny model's block."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("tiny"), dtype="float64", max_position_embeddings=256)


def open_tiny(folder, num_blocks: int = 4000, **knobs) -> LLM:
    knobs |= {"dtype": "float64", "kv_cache_memory": num_blocks * BLOCK_BYTES, "speculate": "off"}
    return LLM(str(folder), tokenizer="smollm2", **knobs)


def mixed_work() -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts of many lengths; greedy, sampled, penalized, n=4, scored."""
    prompts = [[(17 * i + 5 * j) % 97 for j in range(3 + 7 * i % 90)] for i in range(24)]
    kinds = [
        SamplingParams(temperature=0, max_tokens=40, ignore_eos=True),
        SamplingParams(temperature=0.9, top_p=0.95, max_tokens=50, seed=7, logprobs=2),
        SamplingParams(n=4, temperature=1.2, top_k=30, max_tokens=30, seed=11, ignore_eos=True),
        SamplingParams(
            temperature=0.7, repetition_penalty=1.2, frequency_penalty=0.3, max_tokens=40, seed=3, prompt_logprobs=1
        ),
    ]
    return prompts, [kinds[i % 4] for i in range(len(prompts))]


def texts(outputs: list[RequestOutput]) -> list[list[tuple[list[int], str | None]]]:
    return [[(each.token_ids, each.finish_reason) for each in output.outputs] for output in outputs]


def run(llm: LLM) -> list[RequestOutput]:
    outputs = llm.generate(*mixed_work(), use_tqdm=False)
    assert llm.ledger().num_used_blocks == 0
    return outputs


def test_a_small_pool_preempts_and_gives_the_same_tokens_and_logprobs(tiny):
    with open_tiny(tiny) as large, open_tiny(tiny, num_blocks=20, max_model_len=140) as small:
        wanted, got = run(large), run(small)
        assert large.engine.scheduler.num_preemptions == 0
        assert small.engine.scheduler.num_preemptions > 5
    assert texts(got) == texts(wanted)
    assert sum(output.metrics.memory.num_preemptions for output in got) > 5
    for a, b in zip(got, wanted, strict=True):
        if a.prompt_logprobs is None:
            assert b.prompt_logprobs is None
            continue
        for mine, other in zip(a.prompt_logprobs, b.prompt_logprobs or [], strict=True):
            if mine is None or other is None:
                assert mine is other
                continue
            assert mine.keys() == other.keys()
            assert all(abs(mine[t].logprob - other[t].logprob) < 1e-9 for t in mine)


@pytest.mark.parametrize(
    "knobs", [{"block_size": 1}, {"block_size": 7}, {"max_num_batched_tokens": 16, "max_num_seqs": 8}]
)
def test_block_size_and_chunks_do_not_change_the_tokens(tiny, knobs):
    with open_tiny(tiny) as plain, open_tiny(tiny, **knobs) as other:
        assert texts(run(other)) == texts(run(plain))


@pytest.mark.parametrize("allocation", ["paged", "contiguous-max"])
def test_static_batches_give_the_same_tokens(tiny, allocation):
    with open_tiny(tiny) as llm:
        wanted = texts(run(llm))
    knobs = {"max_num_seqs": 6, "max_num_batched_tokens": 40, "kv_allocation": allocation}
    with open_tiny(tiny, num_blocks=64, scheduling_policy="static", **knobs) as llm:
        assert texts(run(llm)) == wanted


def test_the_same_seed_gives_the_same_tokens_alone_in_a_batch_of_64_and_preempted(tiny):
    params = SamplingParams(temperature=1.0, seed=1234, max_tokens=60, ignore_eos=True)
    prompt = [5, 6, 7, 8]
    others = [[(i * 3 + j) % 97 for j in range(1 + i)] for i in range(63)]
    with open_tiny(tiny) as llm:
        alone = llm.generate([prompt], params, use_tqdm=False)[0].outputs[0].token_ids
        for place in (0, 31, 63):
            batch = [*others[:place], prompt, *others[place:]]
            assert llm.generate(batch, params, use_tqdm=False)[place].outputs[0].token_ids == alone
    with open_tiny(tiny, num_blocks=30) as llm:
        output = llm.generate([*others, prompt], params, use_tqdm=False)[63]
        assert llm.engine.scheduler.num_preemptions > 0
        assert output.outputs[0].token_ids == alone


def test_samples_differ_and_the_engines_seed_repeats_them(tiny):
    params = SamplingParams(n=4, temperature=1.0, max_tokens=20, ignore_eos=True)
    with open_tiny(tiny, seed=5) as one, open_tiny(tiny, seed=5) as same, open_tiny(tiny, seed=6) as other:
        first = texts(one.generate([[1, 2, 3]] * 2, params, use_tqdm=False))
        assert texts(same.generate([[1, 2, 3]] * 2, params, use_tqdm=False)) == first
        assert texts(other.generate([[1, 2, 3]] * 2, params, use_tqdm=False)) != first
    assert len({tuple(token_ids) for output in first for token_ids, _ in output}) == 8
