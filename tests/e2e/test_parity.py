"""Greedy tokens of the real model equal those of transformers, batched or not, preempted or not."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from e2e.greedy_oracle import GreedyOracle
from octavo import LLM, SamplingParams
from octavo.checkpoints.locate import locate
from tiny_checkpoints import transformers_from_gguf


@cache
def oracle(num_tokens: int) -> GreedyOracle:
    return GreedyOracle(transformers_from_gguf(locate("smollm2").path, num_layers=30), num_tokens, eos_token_ids=(2,))


def first_turns(folder: Path, llm: LLM, count: int) -> list[list[int]]:
    """The first turns of MT-bench as the chat template renders them, spread over its categories."""
    lines = (folder / "data" / "mt_bench_questions.jsonl").read_text().splitlines()
    texts = [json.loads(line)["turns"][0] for line in lines]
    return [
        llm.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in texts[:: len(texts) // count][:count]
    ]


def greedy(num_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=num_tokens)


def check(prompts: list[list[int]], num_tokens: int, allowed: int, pool: str, label: str) -> int:
    knobs: dict[str, Any] = {"dtype": "float32", "quantization": "none", "max_model_len": 1024, "speculate": "off"}
    with LLM("smollm2", kv_cache_memory=pool, **knobs) as llm:
        outputs = llm.generate(prompts, greedy(num_tokens))
        assert llm.ledger().num_used_blocks == 0
        assert oracle(num_tokens).differing(outputs, label) <= allowed
        return llm.engine.scheduler.num_preemptions


def test_eight_prompts_batched_together_equal_transformers(shared_folder: Path, smollm2: LLM) -> None:
    prompts = first_turns(shared_folder, smollm2, 8)
    assert oracle(24).differing(smollm2.generate(prompts, greedy(24)), "8 prompts") <= 1
    assert check(prompts, 24, 1, "36MiB", "8 prompts, small pool") > 0


@pytest.mark.parity
@pytest.mark.timeout(3600)
def test_eighty_prompts_batched_together_equal_transformers(shared_folder: Path, smollm2: LLM) -> None:
    prompts = first_turns(shared_folder, smollm2, 80)
    assert check(prompts, 64, 2, "2GiB", "80 prompts") == 0
    num_preemptions = check(prompts, 64, 2, "120MiB", "80 prompts, small pool")
    print(f"{num_preemptions} preemptions in the small pool")
    assert num_preemptions > 0
