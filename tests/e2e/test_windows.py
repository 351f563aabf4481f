"""Models with windows give blocks back while their sequences go on, and every token stays what it was: as in
transformers, and whatever preempts, shares or moves the blocks that are left."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import transformers

from e2e.greedy_oracle import GreedyOracle
from e2e.sized_pools import open_with_blocks
from octavo import LLM, BeamSearchParams, RequestOutput, SamplingParams
from octavo.config import PreemptionMode
from octavo.layer_groups import Full
from octavo.memory import Demand
from tiny_checkpoints import make_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = 7
BLOCK_SIZE = 4
NUM_TOKENS = 32
SLIDING, SEES_ALL = "sliding_attention", "full_attention"
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one full group, two of windows": (
        "Gemma3ForCausalLM",
        {"num_hidden_layers": 6, "layer_types": [SLIDING, SLIDING, SEES_ALL] * 2},
    ),
    "one group, of windows": ("MistralForCausalLM", {"sliding_window": WINDOW}),
    "five groups, the last padded": (
        "Qwen2ForCausalLM",
        {"num_hidden_layers": 9, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
}
KERNELS: dict[str, dict[str, Any]] = {
    "reference": {"kernels": "reference"},
    "C++": {"kernels": "cpu"},
    "C++, int8 KV": {"kernels": "cpu", "kv_cache_dtype": "int8"},
}
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)

Tokens = list[list[list[int]]]
"""Of each request, of each of its sequences."""


def prompt(number: int, length: int) -> list[int]:
    """Prompts of one number begin alike."""
    return [(17 * number + 5 * place + place * place % (11 + number)) % 97 for place in range(length)]


GREEDY_PROMPTS = [prompt(number, 5 + 13 * number) for number in range(5)]
"""From shorter than the window to eight times as long."""


def work() -> tuple[list[list[int]], list[SamplingParams]]:
    """Greedy, sampled, n=4 and beam requests; every third begins like the first."""
    prompts = [prompt(number % 3, 6 + 11 * number % 47) for number in range(10)]
    kinds = [
        GREEDY,
        SamplingParams(temperature=0.9, top_p=0.95, max_tokens=24, seed=7, ignore_eos=True),
        SamplingParams(n=4, temperature=1.2, top_k=30, max_tokens=20, seed=11, ignore_eos=True),
        BeamSearchParams(beam_width=3, max_tokens=20, ignore_eos=True).sampling_params(),
    ]
    return prompts, [kinds[number % 4] for number in range(len(prompts))]


@dataclass
class Windowed:
    """A tiny model with windows, in a precision, on some kernels; and what an unlimited pool gives."""

    checkpoint: str
    folder: Path
    knobs: dict[str, Any]
    demand: Demand
    wanted: Tokens
    greedy: list[RequestOutput]

    def open(self, num_blocks: int = 4000, num_swap_blocks: int = 0, mode: PreemptionMode = "auto", **more: Any) -> LLM:
        return open_tiny(self.folder, {**self.knobs, **more}, num_blocks, num_swap_blocks, mode)


def blocks_of_the_largest(demand: Demand) -> int:
    """Blocks of the smallest pool that admits each request of the work."""
    prompts, params = work()
    return max(
        demand.of_request(len(own), len(own) + (wants.max_tokens or 0), wants.num_sequences)
        for own, wants in zip(prompts, params, strict=True)
    )


def open_tiny(
    folder: Path,
    knobs: dict[str, Any],
    num_blocks: int = 4000,
    num_swap_blocks: int = 0,
    mode: PreemptionMode = "auto",
) -> LLM:
    return open_with_blocks(
        folder,
        num_blocks,
        num_swap_blocks,
        dtype="float32",
        block_size=BLOCK_SIZE,
        max_num_seqs=16,
        max_num_batched_tokens=16,
        preemption_mode=mode,
        **knobs,
    )


def run(llm: LLM, prompts: list[list[int]], params: SamplingParams | list[SamplingParams]) -> list[RequestOutput]:
    outputs = llm.generate(prompts, params, use_tqdm=False)
    ledger = llm.ledger()
    assert ledger.num_used_blocks == ledger.num_pinned_blocks, "the pool is whole"
    assert ledger.num_swapped_blocks == 0, "the swap space is whole"
    return outputs


def tokens(outputs: list[RequestOutput]) -> Tokens:
    return [[each.token_ids for each in output.outputs] for output in outputs]


def num_cached(outputs: list[RequestOutput]) -> list[int]:
    return [output.metrics.memory.num_cached_tokens for output in outputs]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: make_checkpoint(tmp_path_factory.mktemp("windows"), architecture, **fields)
        for name, (architecture, fields) in CHECKPOINTS.items()
    }


@pytest.fixture(
    scope="module",
    params=[(checkpoint, kernels) for checkpoint in CHECKPOINTS for kernels in KERNELS],
    ids=lambda param: ", ".join(param),
)
def windowed(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Windowed:
    checkpoint, kernels = request.param
    with open_tiny(folders[checkpoint], KERNELS[kernels]) as llm:
        wanted = tokens(run(llm, *work()))
        greedy = run(llm, GREEDY_PROMPTS, GREEDY)
        assert llm.engine.scheduler.num_preemptions == 0
        demand = llm.engine.scheduler.limits.demand
    return Windowed(checkpoint, folders[checkpoint], KERNELS[kernels], demand, wanted, greedy)


def test_the_checkpoints_have_the_groups_that_their_names_say(windowed: Windowed) -> None:
    groups = windowed.demand.layer_groups
    assert [str(kind) for kind in groups.kinds] == {
        "one full group, two of windows": ["full", f"window({WINDOW})", f"window({WINDOW})"],
        "one group, of windows": [f"window({WINDOW})"],
        "five groups, the last padded": ["full", *[f"window({WINDOW})"] * 4],
    }[windowed.checkpoint]
    assert (len(groups.groups[-1].layers) < groups.layers_a_group) == ("padded" in windowed.checkpoint)


def test_greedy_tokens_are_those_of_transformers(windowed: Windowed) -> None:
    if "kv_cache_dtype" in windowed.knobs:
        pytest.skip("transformers keeps no int8 KV of this kind")
    architecture, _ = CHECKPOINTS[windowed.checkpoint]
    model = getattr(transformers, architecture).from_pretrained(windowed.folder)
    oracle = GreedyOracle(model, NUM_TOKENS, eos_token_ids=(-1,))
    assert oracle.differing(windowed.greedy, windowed.checkpoint) == 0


@pytest.mark.parametrize(
    ("mode", "room"),
    [("recompute", 0.0), ("swap", 0.5)],
    ids=["recompute", "swap with little room"],
)
def test_a_squeezed_pool_gives_the_tokens_of_an_unlimited_one(
    windowed: Windowed, mode: PreemptionMode, room: float
) -> None:
    """Samples and beams included. The pool is too small for the largest request, if nothing were given back."""
    num_blocks = blocks_of_the_largest(windowed.demand)
    groups = windowed.demand.layer_groups
    all_kept = replace(groups, groups=tuple(replace(group, kind=Full()) for group in groups.groups))
    assert num_blocks < blocks_of_the_largest(msgspec.structs.replace(windowed.demand, layer_groups=all_kept))
    with windowed.open(num_blocks, int(num_blocks * room), mode) as llm:
        outputs = run(llm, *work())
        totals = llm.ledger().totals
    assert tokens(outputs) == windowed.wanted
    assert min(totals.num_preemptions, totals.num_copied_blocks) > 0
    assert (totals.num_swaps > 0) == (mode == "swap")


def test_found_prefixes_give_the_tokens_of_computed_ones(windowed: Windowed) -> None:
    """The same prompts again, and prompts that go on where an earlier answer ended or in its middle."""
    answers = [output.prompt_token_ids + output.outputs[0].token_ids for output in windowed.greedy]
    follow_ups = [answer[: len(answer) - back] + prompt(9, 6) for answer in answers[:4] for back in (0, 19)]
    brief = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    with windowed.open(prefix_cache_scope="off") as llm:
        wanted = tokens(run(llm, follow_ups, brief))
    with windowed.open() as llm:
        run(llm, GREEDY_PROMPTS, GREEDY)
        again = run(llm, GREEDY_PROMPTS, GREEDY)
        found = run(llm, follow_ups, brief)
    assert tokens(again) == tokens(windowed.greedy)
    assert num_cached(again) == [(len(own) - 1) // BLOCK_SIZE * BLOCK_SIZE for own in GREEDY_PROMPTS]
    assert tokens(found) == wanted
    assert min(num_cached(found)) > 0


def test_a_pinned_prefix_gives_the_tokens_of_a_computed_one(windowed: Windowed) -> None:
    pin = prompt(4, 30)
    prompts = [pin + prompt(number, 3 + 9 * number) for number in range(4)]
    with windowed.open(prefix_cache_scope="off") as llm:
        wanted = tokens(run(llm, prompts, GREEDY))
        llm.engine.pin(pin, "pin.txt")
        found = run(llm, prompts, GREEDY)
    assert tokens(found) == wanted
    assert min(num_cached(found)) == 30 // BLOCK_SIZE * BLOCK_SIZE


def test_two_ranks_give_blocks_back_as_one_process_does(folders: dict[str, Path]) -> None:
    folder = folders["one full group, two of windows"]
    with open_tiny(folder, KERNELS["C++"]) as llm:
        wanted = tokens(run(llm, *work()))
        demand = llm.engine.scheduler.limits.demand
    num_blocks = blocks_of_the_largest(demand)
    with open_tiny(folder, {**KERNELS["C++"], "tensor_parallel_size": 2}, num_blocks, num_blocks // 4, "swap") as llm:
        assert tokens(run(llm, *work())) == wanted
        totals = llm.ledger().totals
    assert min(totals.num_swaps, totals.num_recomputes) > 0
