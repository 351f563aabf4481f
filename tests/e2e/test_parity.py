"""Greedy tokens of the real model equal those of transformers, batched or not, preempted or not."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from checkpoints import transformers_from_gguf
from octavo import LLM, SamplingParams
from octavo.models.weights.locate import locate
from octavo.outputs import RequestOutput

NUM_TOKENS = 64
TIE = 1e-3
"""Two logits this close may come in either order: the sums behind them run in different orders."""


class Oracle:
    """transformers on the same weights, one prompt at a time, so that no padding plays a part."""

    def __init__(self) -> None:
        self.model = transformers_from_gguf(locate("smollm2").path, num_layers=30)

    @torch.inference_mode()
    def generate(self, prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=2
        )
        tokens: list[int] = output[0, len(prompt) :].tolist()
        return tokens

    @torch.inference_mode()
    def next_logits(self, token_ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self.model(torch.tensor([token_ids])).logits[0, -1]
        return logits


@cache
def oracle() -> Oracle:
    return Oracle()


@cache
def expected(prompt: tuple[int, ...]) -> list[int]:
    return oracle().generate(list(prompt))


def first_turns(folder: Path, llm: LLM, count: int) -> list[list[int]]:
    """The first turns of MT-bench as the chat template renders them, spread over its categories."""
    lines = (folder / "data" / "mt_bench_questions.jsonl").read_text().splitlines()
    texts = [json.loads(line)["turns"][0] for line in lines]
    return [
        llm.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in texts[:: len(texts) // count][:count]
    ]


def differing(outputs: list[RequestOutput], label: str) -> int:
    """How many outputs differ from transformers'; each must do so at a tie."""
    count = 0
    for number, output in enumerate(tqdm(outputs, desc=label)):
        got, wanted = output.outputs[0].token_ids, expected(tuple(output.prompt_token_ids))
        if got == wanted:
            continue
        at = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
        logits = oracle().next_logits(output.prompt_token_ids + wanted[:at])
        gap = abs(float(logits[got[at]] - logits[wanted[at]]))
        print(f"{label}: prompt {number} differs at token {at}, logits {gap:.2e} apart")
        assert gap < TIE, f"prompt {number} differs at token {at}, where the two logits are {gap} apart"
        count += 1
    return count


GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)


def check(prompts: list[list[int]], allowed: int, pool: str, label: str) -> int:
    with LLM("smollm2", dtype="float32", kv_cache_memory=pool, max_model_len=1024) as llm:
        outputs = llm.generate(prompts, GREEDY)
        assert llm.ledger().num_used_blocks == 0
        assert differing(outputs, label) <= allowed
        return llm.engine.scheduler.num_preemptions


def test_eight_prompts_batched_together_equal_transformers(shared_folder: Path, smollm2: LLM) -> None:
    prompts = first_turns(shared_folder, smollm2, 8)
    assert differing(smollm2.generate(prompts, GREEDY), "8 prompts") <= 1
    assert check(prompts, 1, "36MiB", "8 prompts, small pool") > 0


@pytest.mark.parity
@pytest.mark.timeout(3600)
def test_eighty_prompts_batched_together_equal_transformers(shared_folder: Path, smollm2: LLM) -> None:
    prompts = first_turns(shared_folder, smollm2, 80)
    assert check(prompts, 2, "2GiB", "80 prompts") == 0
    num_preemptions = check(prompts, 2, "120MiB", "80 prompts, small pool")
    print(f"{num_preemptions} preemptions in the small pool")
    assert num_preemptions > 0
