"""Under a pool of a tenth of the demand every request gets the tokens that it gets from an unlimited one, however it is
preempted."""

import logging
from pathlib import Path
from typing import Any

import pytest

from e2e.sized_pools import open_with_blocks
from octavo import LLM, BeamSearchParams, RequestOutput, SamplingParams
from octavo.config import PreemptionMode
from octavo.errors import ConfigError
from octavo.layer_groups import one_group
from octavo.memory import BlockDemand
from tiny_checkpoints import make_llama

PRECISIONS: dict[str, dict[str, Any]] = {
    "float64 on the reference": {"dtype": "float64"},
    "int8 on C++": {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"},
}
ON_RANKS: dict[str, Any] = {"dtype": "float32", "tensor_parallel_size": 2}
BLOCK_SIZE = 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(
        tmp_path_factory.mktemp("tiny"), hidden_size=96, num_attention_heads=6, max_position_embeddings=256
    )


def work() -> tuple[list[list[int]], list[SamplingParams]]:
    """Greedy, sampled, n=4 and beam requests; every third begins like the first."""
    prompts = [[(17 * (i % 3) * i + 5 * j) % 97 for j in range(3 + 5 * i % 30)] for i in range(24)]
    kinds = [
        SamplingParams(temperature=0, max_tokens=24, ignore_eos=True),
        SamplingParams(temperature=0.9, top_p=0.95, max_tokens=30, seed=7, ignore_eos=True),
        SamplingParams(n=4, temperature=1.2, top_k=30, max_tokens=20, seed=11, ignore_eos=True),
        BeamSearchParams(beam_width=4, max_tokens=20, ignore_eos=True).sampling_params(),
    ]
    return prompts, [kinds[i // 3 % 4] for i in range(len(prompts))]


def demand() -> int:
    prompts, params = work()
    demand = BlockDemand(BLOCK_SIZE, one_group(2), 2048)
    return sum(
        demand.of_request(len(prompt), len(prompt) + (own.max_tokens or 0), own.num_sequences)
        for prompt, own in zip(prompts, params, strict=True)
    )


def open_tiny(
    folder: Path,
    knobs: dict[str, Any],
    num_blocks: int = 4000,
    num_swap_blocks: int = 0,
    mode: PreemptionMode = "auto",
) -> LLM:
    return open_with_blocks(folder, num_blocks, num_swap_blocks, block_size=BLOCK_SIZE, preemption_mode=mode, **knobs)


def run(llm: LLM) -> list[RequestOutput]:
    outputs = llm.generate(*work(), use_tqdm=False)
    ledger = llm.ledger()
    assert (ledger.num_used_blocks, ledger.num_swapped_blocks) == (0, 0), "pool and swap space are whole"
    return outputs


def tokens(outputs: list[RequestOutput]) -> list[list[list[int]]]:
    return [[each.token_ids for each in output.outputs] for output in outputs]


@pytest.fixture(scope="module", params=PRECISIONS)
def unlimited(request: pytest.FixtureRequest, tiny: Path) -> tuple[str, list[list[list[int]]]]:
    """A precision, and the tokens that an unlimited pool gives in it."""
    with open_tiny(tiny, PRECISIONS[request.param]) as llm:
        wanted = tokens(run(llm))
        assert llm.engine.scheduler.num_preemptions == 0
    return request.param, wanted


@pytest.mark.parametrize(
    ("mode", "room"),
    [("recompute", 0.0), ("swap", 1.0), ("swap", 0.25), ("auto", 1.0)],
    ids=["recompute", "swap", "swap with little room", "auto"],
)
def test_every_mode_ends_with_the_tokens_of_an_unlimited_pool(
    tiny: Path, unlimited: tuple[str, list[list[list[int]]]], mode: PreemptionMode, room: float
) -> None:
    precision, wanted = unlimited
    num_blocks = demand() // 10
    with open_tiny(tiny, PRECISIONS[precision], num_blocks, int(num_blocks * room), mode) as llm:
        outputs = run(llm)
        totals = llm.ledger().totals
    assert tokens(outputs) == wanted
    assert totals.num_preemptions >= 5
    assert totals.num_swaps + totals.num_recomputes == totals.num_preemptions
    assert (totals.num_swaps > 0) == (mode != "recompute"), "auto swaps at least once, to see how fast it is"
    if room < 1:
        assert totals.num_recomputes > 0
    told = [output.metrics.memory for output in outputs]
    assert sum(memory.num_swaps for memory in told) == totals.num_swaps
    assert sum(memory.num_preemptions for memory in told) == totals.num_preemptions
    assert sum(memory.num_recomputed_tokens for memory in told) == totals.num_recomputed_tokens


def test_two_ranks_share_preempt_and_swap_as_one_process_does(tiny: Path) -> None:
    """Forks, copies on write, cached prefixes, blocks moved out and back: in each rank's part of every block."""
    with open_tiny(tiny, {"dtype": "float32"}) as llm:
        wanted = tokens(run(llm))
    num_blocks = demand() // 10
    with open_tiny(tiny, ON_RANKS, num_blocks, num_blocks // 4, "swap") as llm:
        assert tokens(run(llm)) == wanted
        totals = llm.ledger().totals
        prompt, greedy = [5 * j % 97 for j in range(20)], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
        computed, found = (llm.generate(prompt, greedy, use_tqdm=False)[0] for _ in range(2))
    assert min(totals.num_swaps, totals.num_recomputes, totals.num_copied_blocks) > 0
    assert found.metrics.memory.num_cached_tokens == 2 * BLOCK_SIZE
    assert found.outputs[0].token_ids == computed.outputs[0].token_ids


@pytest.mark.parametrize(
    ("mode", "room", "reason"),
    [("auto", 1.0, "auto has not measured both yet"), ("swap", 0.25, "the swap space has")],
    ids=["auto", "swap with little room"],
)
def test_each_preemption_is_one_line_in_the_log(
    tiny: Path, caplog: pytest.LogCaptureFixture, mode: PreemptionMode, room: float, reason: str
) -> None:
    num_blocks = demand() // 10
    with (
        caplog.at_level(logging.INFO, logger="octavo.scheduling.choosing"),
        open_tiny(tiny, PRECISIONS["int8 on C++"], num_blocks, int(num_blocks * room), mode) as llm,
    ):
        run(llm)
        totals = llm.ledger().totals
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("preempted ")]
    assert len(lines) == totals.num_preemptions
    assert sum("bytes moved out" in line for line in lines) == totals.num_swaps
    assert any(reason in line for line in lines)


def test_swap_without_room_is_refused_with_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"--preemption-mode swap.*--swap-space is 0"):
        LLM("smollm2", preemption_mode="swap", swap_space=0)
