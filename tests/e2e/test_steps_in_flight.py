"""With two steps in flight, and with drafts, every request gets the tokens that it gets without, whatever happens to it
on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drafters import RowDrafter
from late_queue import LateQueue
from octavo import BeamSearchParams, SamplingParams
from octavo.config import EngineConfig, PreemptionMode
from octavo.engine.engine import Engine
from octavo.execution.device_queue import DeviceQueue
from octavo.execution.drafts import Drafter
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan
from octavo.execution.row_tables import RowTables
from octavo.execution.suffix_drafter import SuffixDrafter
from octavo.kernels.batch import RaggedBatch
from octavo.memory.ledger import Totals
from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import Grammar
from scheduling.checking import check_engine
from tiny_checkpoints import make_checkpoint, make_llama
from toy_grammars import KINDS

PRECISIONS: dict[str, dict[str, Any]] = {
    "reference": {"dtype": "float64"},
    "C++": {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"},
}
BLOCK_SIZE, VOCAB_SIZE = 4, 97
ABORTED = [("7", None, 3), ("14", 0, 2)]
"""Requests that are aborted, which of their sequences, and at which of the first one's tokens."""
Tokens = dict[str, dict[int, list[int]]]
"""By request and sequence."""


class Oracle(RowDrafter):
    """A drafter that knows what follows from an earlier run, and errs in one of four drafts."""

    max_drafts = 4

    def __init__(self, known: Tokens) -> None:
        self.num_proposed = 0
        self._next: dict[tuple[int, ...], int] = {}
        for request in work():
            for output in known.get(request.request_id, {}).values():
                whole = request.prompt_token_ids + output
                for length in range(len(request.prompt_token_ids), len(whole)):
                    self._next[tuple(whole[:length])] = whole[length]

    def guess(self, token_ids: list[int]) -> list[int]:
        drafts: list[int] = []
        tokens = list(token_ids)
        while len(drafts) < 1 + len(token_ids) % self.max_drafts:
            follows = self._next.get(tuple(tokens))
            if follows is None:
                break
            tokens.append(follows)
            drafts.append(follows if (len(tokens) + sum(tokens)) % 4 else (follows + 1) % VOCAB_SIZE)
        self.num_proposed += len(drafts)
        return drafts


class OwnText(SuffixDrafter):
    """A drafter from the rows' own text, to which all steps take alike, so that it guesses the same in every run."""

    def __init__(self) -> None:
        super().__init__()
        self.num_drafted = 0
        self.num_steps_saved = 0
        """Tokens that steps gave beside one a row."""
        self._num_tokens: dict[int, int] = {}

    def follow(self, plan: Plan) -> None:
        super().follow(plan)
        self._num_tokens = {plan.rows[index]: plan.starts[index] + 1 for index, _ in plan.drafts}
        self.num_drafted += sum(len(token_ids) for _, token_ids in plan.drafts)

    def learn(self, num_rows: int, num_drafts: int, seconds: float) -> None:
        super().learn(num_rows, num_drafts, 1.0)

    def propose(self, rows: Sequence[int], tables: RowTables) -> list[list[int]]:
        own = self._num_tokens.keys() & set(rows)
        self.num_steps_saved += sum(int(tables.num_tokens[row]) - self._num_tokens[row] - 1 for row in own)
        return super().propose(rows, tables)


@pytest.fixture(scope="module", params=["full", "windows"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    if request.param == "full":
        return make_llama(path)
    return make_checkpoint(path, "Gemma3ForCausalLM")


def has_grammar(request_id: str) -> bool:
    return int(request_id) % 5 == 4


def work() -> list[EngineRequest]:
    """Greedy, sampled, n = 3, beams, stop tokens, penalties; every third prompt begins like the first, and every fifth
    request has a grammar, so that each kind has one."""
    kinds = [
        SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2),
        SamplingParams(temperature=0.9, top_p=0.95, max_tokens=30, seed=7, ignore_eos=True),
        SamplingParams(n=3, temperature=1.2, top_k=30, max_tokens=20, seed=11, stop_token_ids=[3, 5, 8, 13, 21]),
        BeamSearchParams(beam_width=3, max_tokens=14).sampling_params(),
        SamplingParams(temperature=0.8, max_tokens=40, seed=3, repetition_penalty=1.2, frequency_penalty=0.3),
        SamplingParams(temperature=1.1, max_tokens=12, n=2, seed=5, ignore_eos=True, min_tokens=4),
    ]
    requests = [
        EngineRequest(
            str(number),
            [(17 * (number % 3) * position + 5 * position) % VOCAB_SIZE for position in range(3 + 5 * number % 30)],
            kinds[number % len(kinds)],
            float(number),
            number,
        )
        for number in range(24)
    ]
    grammar = Grammar("alternating")
    return [
        msgspec.structs.replace(request, grammar=grammar) if has_grammar(request.request_id) else request
        for request in requests
    ]


def run(
    folder: Path,
    knobs: dict[str, Any],
    depth: int,
    mode: PreemptionMode,
    drafter: Drafter | None = None,
    queue: DeviceQueue | None = None,
    predicted: Tokens | None = None,
) -> tuple[Tokens, Totals, int]:
    """The tokens of the work under a pool that is too small for it, what has happened in memory, and in how many steps.
    With `predicted` each request brings what its first sequence may resemble.

    Two are aborted: one at its third token, one of the other's sequences at its second.
    """
    common: dict[str, Any] = {"model": str(folder), "block_size": BLOCK_SIZE, **knobs}
    probe = LocalExecutor(EngineConfig(kv_cache_memory="1MiB", **common))
    block_bytes = probe.capacity.block_bytes * len(probe.capacity.layer_groups.groups)
    probe.close()
    config = EngineConfig(
        kv_cache_memory=50 * block_bytes,
        swap_space=25 * block_bytes,
        preemption_mode=mode,
        steps_in_flight=depth,
        max_num_batched_tokens=48,
        max_num_seqs=24,
        speculate="off",  # but for the drafter that is given
        **common,
    )
    executor = LocalExecutor(config, drafter=drafter, grammars=KINDS, queue=queue)
    assert executor.depth == depth
    engine = Engine.configured(executor, config)
    for request in work():
        if predicted is not None:
            request = msgspec.structs.replace(request, prediction=predicted[request.request_id].get(0, []))
        if request.grammar is not None:
            executor.prepare(request.grammar).result()  # so that all begin in their order
        engine.add(request)
    got: Tokens = {}
    while engine.has_unfinished:
        for update in engine.step():
            for sequence in update.sequences:
                got.setdefault(update.request_id, {}).setdefault(sequence.index, []).extend(sequence.token_ids)
        for request_id, index, num_tokens in ABORTED:
            if len(got.get(request_id, {}).get(0, [])) >= num_tokens and engine.abort(request_id, index):
                ended = got[request_id] if index is None else [index]
                got[request_id] |= {sequence: got[request_id][sequence][:num_tokens] for sequence in ended}
        check_engine(engine)
    ledger = engine.ledger()
    assert (ledger.num_used_blocks, ledger.num_swapped_blocks) == (0, 0)
    executor.close()
    return got, ledger.totals, engine.num_steps


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_steps_in_flight_give_the_tokens_of_one(folder: Path, precision: str, mode: PreemptionMode) -> None:
    (one, before, _), (two, after, _) = (run(folder, PRECISIONS[precision], depth, mode) for depth in (1, 2))
    assert two == one
    assert len(one) == 24
    for request_id in filter(has_grammar, one):
        for token_ids in one[request_id].values():
            assert [token % 2 for token in token_ids] == [(place + 1) % 2 for place in range(len(token_ids))]
    for totals in (before, after):
        assert totals.num_preemptions > 0
        assert totals.num_copied_blocks > 0
        assert totals.num_hit_tokens > 0
        assert (totals.num_swaps > 0) == (mode == "swap")


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_drafts_change_the_number_of_steps_and_no_token(folder: Path, precision: str, mode: PreemptionMode) -> None:
    without, _, num_steps = run(folder, PRECISIONS[precision], 1, mode)
    for depth in (1, 2):
        drafter = Oracle(without)
        with_drafts, totals, num_fewer = run(folder, PRECISIONS[precision], depth, mode, drafter)
        assert with_drafts == without
        assert totals.num_preemptions > 0
        assert drafter.num_proposed > 300
        assert depth == 2 or num_fewer < num_steps


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_guesses_from_rows_own_text_change_no_token(folder: Path, precision: str, mode: PreemptionMode) -> None:
    without, _, _ = run(folder, PRECISIONS[precision], 1, mode)
    drafter = OwnText()
    with_drafts, totals, _ = run(folder, PRECISIONS[precision], 1, mode, drafter, predicted=without)
    assert with_drafts == without
    assert totals.num_preemptions > 0
    assert totals.num_hit_tokens > 0
    assert drafter.num_drafted >= drafter.num_steps_saved > 20


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_device_that_works_beside_the_host_gives_the_same_tokens(
    folder: Path, precision: str, mode: PreemptionMode
) -> None:
    one, _, _ = run(folder, PRECISIONS[precision], 1, mode)
    for depth in (1, 2):
        queue = LateQueue()
        apart, totals, _ = run(folder, PRECISIONS[precision], depth, mode, queue=queue)
        assert apart == one
        assert totals.num_preemptions > 0
        assert queue.num_torn == 0
        assert (queue.num_late > 100) == (depth == 2)
        assert (queue.num_beside > 0) == (depth == 2 and mode == "swap")


def test_drafts_are_accepted_beside_the_host_too(folder: Path) -> None:
    without, _, _ = run(folder, PRECISIONS["reference"], 1, "recompute")
    drafter = Oracle(without)
    with_drafts, _, _ = run(folder, PRECISIONS["reference"], 2, "recompute", drafter, LateQueue())
    assert with_drafts == without
    assert drafter.num_proposed > 300


def test_what_a_step_reads_is_not_overwritten_where_another_fails(folder: Path) -> None:
    """Nobody waits for steps that have failed, nor for those in flight then: a device may still read their batches."""
    queue = LateQueue()
    knobs: dict[str, Any] = {"steps_in_flight": 2, "max_num_seqs": 2, **PRECISIONS["reference"]}
    config = EngineConfig(model=str(folder), kv_cache_memory="1MiB", **knobs)
    executor = LocalExecutor(config, queue=queue)
    forward, count = executor.runner.forward, 0
    run_model = forward.run

    def run_or_fail(batch: RaggedBatch) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise RuntimeError("this step fails")
        run_model(batch)

    forward.run = run_or_fail  # type: ignore[method-assign]
    engine = Engine.configured(executor, config)
    for number in range(12):
        engine.add(EngineRequest(str(number), [5, number, 7], SamplingParams(max_tokens=4, ignore_eos=True), 0.0, 1))
    errors = [update.error for _ in range(24) for update in engine.step()]
    assert "RuntimeError: this step fails" in errors
    assert queue.num_torn == 0
    executor.close()
