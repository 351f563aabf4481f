"""On the C++ kernels a request's tokens and log-probabilities don't depend on the batch, the pool or the chunks: not by
a bit, in every precision."""

from typing import Any

import pytest

from e2e.sized_pools import open_with_blocks
from octavo import LLM, RequestOutput, SamplingParams
from tiny_checkpoints import make_llama

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int8 with int8 KV": {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Heads of 16 dimensions: decode and prefill take their separate paths through the attention kernels."""
    return make_llama(
        tmp_path_factory.mktemp("tiny"), hidden_size=96, num_attention_heads=6, max_position_embeddings=512
    )


def open_tiny(folder, precision: str, **knobs: Any) -> LLM:
    return LLM(str(folder), tokenizer="smollm2", **PRECISIONS[precision], **knobs)


def mixed_work() -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts of many lengths, one longer than a chunk of the kernels; greedy, sampled, n=3, scored."""
    prompts = [[(17 * i + 5 * j) % 97 for j in range(3 + 11 * i % 120)] for i in range(20)]
    prompts.append([(3 * j) % 97 for j in range(300)])
    kinds = [
        SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=3),
        SamplingParams(temperature=0.9, top_p=0.95, max_tokens=50, seed=7, logprobs=2, ignore_eos=True),
        SamplingParams(n=3, temperature=1.2, top_k=30, max_tokens=30, seed=11, ignore_eos=True),
        SamplingParams(temperature=0, max_tokens=20, prompt_logprobs=1, logprobs=1, ignore_eos=True),
    ]
    return prompts, [kinds[i % 4] for i in range(len(prompts))]


def told(output: RequestOutput) -> Any:
    """All that a request is told: tokens and exact log-probabilities."""
    return [(each.token_ids, each.logprobs) for each in output.outputs], output.prompt_logprobs


def run(llm: LLM) -> list[Any]:
    return [told(output) for output in llm.generate(*mixed_work(), use_tqdm=False)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_alone_batched_chunked_and_preempted_are_the_same_bits(tiny, precision: str) -> None:
    with open_tiny(tiny, precision) as llm:
        batched = run(llm)
        assert llm.engine.scheduler.num_preemptions == 0
        prompts, params = mixed_work()
        for index in (0, 1, 3, 7, 20):
            alone = llm.generate([prompts[index]], params[index], use_tqdm=False)[0]
            assert told(alone) == batched[index]
    with open_tiny(tiny, precision, max_num_batched_tokens=24, max_num_seqs=8) as llm:
        assert run(llm) == batched
    with open_with_blocks(tiny, 40, max_model_len=400, **PRECISIONS[precision]) as llm:
        assert run(llm) == batched
        assert llm.engine.scheduler.num_preemptions >= 3


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_block_size_and_the_number_of_threads_change_no_bit(tiny, precision: str) -> None:
    with open_tiny(tiny, precision) as llm:
        wanted = run(llm)
    for knobs in ({"block_size": 32}, {"block_size": 5}, {"num_threads": 1}, {"num_threads": 2}):
        with open_tiny(tiny, precision, **knobs) as llm:
            assert run(llm) == wanted
