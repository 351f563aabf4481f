"""Given the same token outcomes, the simulated and the local executor lead to the same plans, block tables, ledgers and
updates, step by step."""

import random
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drafters import RowDrafter
from octavo import BeamSearchParams, SamplingParams
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.execution import simulated
from octavo.execution.drafts import Drafter
from octavo.execution.executor import Capacity, PendingOutput
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan, StepOutput
from octavo.execution.row_tables import RowTables
from octavo.execution.simulated import SimulatedExecutor, StepSeconds, beam_state, hashed_token
from octavo.outputs import BeamCandidates
from octavo.pooling import NOTHING_SAMPLED, PoolingParams
from octavo.scheduling import EngineRequest, RequestUpdate
from tiny_checkpoints import make_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK_SIZE, MAX_NUM_SEQS = 4, 8
VOCAB_SIZE, EOS = 97, 2
FAVOURED = 11
"""A token that comes so often that some drafts are right."""
CHECKPOINTS: dict[str, tuple[str, str, int]] = {
    "full": ("LlamaForCausalLM", "grouped heads", 24),
    "full and windows": ("Qwen2ForCausalLM", "a window in later layers", 36),
}
"""Architecture and variant of each, and the blocks of a pool that is too small for the traffic."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """An engine to try."""

    knobs: dict[str, Any]
    swap_share: float
    """The swap space's blocks, as a share of the pool's."""
    also: frozenset[str]
    """What has to happen beside `ALWAYS`, or the comparison would say little."""
    drafter: Drafter | None = None


# By the names of plans' fields, of the ledger's totals, and of what else `Comparison.happened` counts.
ALWAYS = frozenset(
    {"released", "removed", "added", "forked", "chosen", "tables", "copies", "scored", "pooled"}
    | {"num_copied_blocks", "num_hit_tokens"}
    | {"chunk", "later sample", "aborted", "stop", "stop token", "length"}
)
RECOMPUTED = frozenset({"num_recomputes", "num_recomputed_tokens"})
SWAPPED = frozenset({"num_swaps", "num_moved_blocks", "swap_out", "swap_in"})
DRAFTED = frozenset({"drafts", "truncated", "num_drafted", "num_accepted"})


class Repeating(RowDrafter):
    """Guesses that a row goes on as it did after its last token's earlier place."""

    max_drafts = 3

    def guess(self, token_ids: list[int]) -> list[int]:
        *earlier, last = token_ids
        if last not in earlier:
            return []
        follows = len(earlier) - earlier[::-1].index(last)
        return token_ids[follows : follows + self.max_drafts]


SETTINGS = {
    "recompute": Setting({"preemption_mode": "recompute"}, 0.0, RECOMPUTED),
    "swap": Setting({"preemption_mode": "swap"}, 1.0, SWAPPED),
    "auto": Setting({"preemption_mode": "auto"}, 0.4, SWAPPED | RECOMPUTED),
    "two steps in flight": Setting(
        {"preemption_mode": "swap", "steps_in_flight": 2, "scheduling_policy": "shortest-first", "overtaking_time": 30},
        0.3,
        SWAPPED | RECOMPUTED,
    ),
    "drafts": Setting({"preemption_mode": "swap"}, 0.3, SWAPPED | RECOMPUTED | DRAFTED, Repeating()),
}


def pretended_seconds(plan: Plan, capacity: Capacity) -> StepSeconds:
    """What a step takes on both sides: `auto` goes by that. To compute a full block of every group takes a little
    longer than to move them out and back, and with an empty slot a little less."""
    num_moved = (len(plan.swap_out) + len(plan.swap_in)) / len(capacity.layer_groups.groups)
    return StepSeconds(compute_s=float(sum(plan.num_new)), move_s=0.475 * BLOCK_SIZE * num_moved)


def fields_of(plan: Plan) -> Fields:
    """A copy of a plan's fields, by name."""
    return msgspec.structs.asdict(deepcopy(plan))


@dataclass
class Outcomes:
    """What a model gave each sequence, under the numbers of which the simulated executor makes hashes."""

    tokens: dict[tuple[int, int, int], int] = field(default_factory=dict)
    """By seed, sequence index and output position."""
    drafts: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)
    """By the same: the output position of the first."""
    candidates: dict[int, BeamCandidates] = field(default_factory=dict)
    """By `beam_state`."""

    def record(self, plan: Plan, output: StepOutput, executor: LocalExecutor) -> None:
        """Take what a step gave. Who was given it is what the runner itself knows of its rows."""
        runner, candidates = executor.runner, dict(output.candidates)
        for place, row in enumerate(plan.sampled_rows):
            parameters = runner.sampling._parameters[row]
            seed, index = int(parameters["seed"]), int(parameters["sequence_index"])
            generated, given = runner.rows.output_token_ids(row).tolist(), output.token_ids[place]
            if place in candidates:
                self.candidates[beam_state(seed, generated)] = candidates[place]
                continue
            for position, token_id in enumerate(given, len(generated) - len(given)):
                self.tokens[seed, index, position] = token_id
            self.drafts[seed, index, len(generated)] = output.drafts[place] if output.drafts else []

    def token(self, seed: int, index: int, position: int, vocab_size: int) -> int:
        """In place of `hashed_token`, but for its numbers that are no tokens."""
        if vocab_size != VOCAB_SIZE:
            return hashed_token(seed, index, position, vocab_size)
        return self.tokens[seed, index, position]

    def drafts_from(self, seed: int, index: int, position: int, vocab_size: int, count: int) -> list[int]:
        """In place of `hashed_drafts`."""
        drafts = self.drafts[seed, index, position]
        assert len(drafts) <= count
        return drafts

    def candidates_in(self, state: int, count: int, vocab_size: int) -> BeamCandidates:
        """In place of `hashed_candidates`."""
        candidates = self.candidates[state]
        assert len(candidates.token_ids) <= count
        return candidates


class RecordedExecutor(LocalExecutor):
    """A local executor that tells what it was given, and records what came of it."""

    def __init__(self, config: EngineConfig, drafter: Drafter | None, outcomes: Outcomes) -> None:
        super().__init__(config, drafter=drafter)
        self.outcomes = outcomes
        self.submitted: Fields = {}
        """Of the latest plan."""

    def submit(self, plan: Plan) -> PendingOutput:
        self.submitted = fields_of(plan)
        output = super().submit(plan).result()
        self.outcomes.record(plan, output, self)
        output.compute_s, output.move_s, _ = pretended_seconds(plan, self.capacity)
        return PendingOutput.ready(output)


class RepeatedExecutor(SimulatedExecutor):
    """A simulated executor that tells what it was given."""

    def __init__(self, capacity: Capacity, depth: int) -> None:
        super().__init__(capacity, partial(pretended_seconds, capacity=capacity), depth)
        self.submitted: Fields = {}

    def submit(self, plan: Plan) -> PendingOutput:
        self.submitted = fields_of(plan)
        return super().submit(plan)


@dataclass
class Traffic:
    """Random requests and aborts, by the number of the step before which they come."""

    arrivals: dict[int, list[EngineRequest]] = field(default_factory=dict)
    aborts: dict[int, tuple[float, bool]] = field(default_factory=dict)
    """Which of the requests that have begun it is, from 0 for the first to 1; and whether the whole of it."""

    @classmethod
    def draw(cls, seed: int, num_requests: int = 80, num_steps: int = 260, num_aborts: int = 30) -> "Traffic":
        generator, traffic = random.Random(seed), cls()
        families = [generator.choices(range(VOCAB_SIZE), k=32) for _ in range(3)]
        for number in range(num_requests):
            step = generator.randrange(num_steps)
            request = draw_request(generator, number, generator.choice(families), float(step))
            traffic.arrivals.setdefault(step, []).append(request)
        for step in generator.sample(range(num_steps), num_aborts):
            traffic.aborts[step] = generator.random(), generator.random() < 0.5
        return traffic

    @property
    def num_steps(self) -> int:
        return 1 + max(*self.arrivals, *self.aborts)


def draw_request(generator: random.Random, number: int, family: list[int], arrival_s: float) -> EngineRequest:
    """A request whose prompt begins as others of its family do. Kinds take turns, and `number` is its seed, which no
    other has."""
    most = generator.randint(4, 32)
    num_samples = MAX_NUM_SEQS + 1 if number % 12 == 2 else 3
    params = [
        SamplingParams(temperature=0, max_tokens=most, ignore_eos=True, logit_bias={FAVOURED: 4.0}),
        SamplingParams(max_tokens=most, min_tokens=2, stop_token_ids=generator.sample(range(EOS + 1, VOCAB_SIZE), 16)),
        SamplingParams(n=num_samples, temperature=1.2, max_tokens=most, logit_bias={EOS: 2.0}),
        BeamSearchParams(beam_width=3, max_tokens=most, ignore_eos=most % 2 == 0).sampling_params(),
        SamplingParams(n=2, temperature=0.8, max_tokens=most, prompt_logprobs=0),
        NOTHING_SAMPLED,
    ][number % 6]
    prompt = family[: generator.randint(1, len(family))] + generator.choices(family, k=generator.randint(0, 8))
    tenant = generator.choice(["", "", "another"])
    request = EngineRequest(str(number), prompt, params, arrival_s, number, tenant)
    if params is NOTHING_SAMPLED:
        return msgspec.structs.replace(request, task="embed", pooling=PoolingParams())
    return request


def comparable(updates: Iterable[RequestUpdate]) -> list[RequestUpdate]:
    """Updates without clock times, and without the numbers that only a model computes."""
    plain = deepcopy(list(updates))
    for update in plain:
        assert update.error is None
        update.first_scheduled_s = None
        if update.prompt_logprobs is not None:
            scores = [msgspec.structs.replace(own, logprob=0.0, rank=1) for own in update.prompt_logprobs]
            update.prompt_logprobs = scores
        for sequence in update.sequences:
            sequence.pooled = sequence.pooled and bytes(len(sequence.pooled))
    return plain


class Comparison:
    """Two engines, one over a local executor and one over a simulated one, which makes its tokens, drafts and
    candidates of what the local one gave. They get the same requests before the same steps."""

    def __init__(self, config: EngineConfig, drafter: Drafter | None, monkeypatch: pytest.MonkeyPatch) -> None:
        outcomes = Outcomes()
        monkeypatch.setattr(simulated, "hashed_token", outcomes.token)
        monkeypatch.setattr(simulated, "hashed_drafts", outcomes.drafts_from)
        monkeypatch.setattr(simulated, "hashed_candidates", outcomes.candidates_in)
        self.drafter = drafter
        self.local = RecordedExecutor(config, drafter, outcomes)
        self.simulated = RepeatedExecutor(self.local.capacity, self.local.depth)
        self.local_engine = Engine.configured(self.local, config)
        self.simulated_engine = Engine.configured(self.simulated, config)
        self.happened: Counter[str] = Counter()
        """Plans by the fields in which they have entries; those with a chunk, without the last token, and those that
        begin a sample that waited for others; updates of sequences by how these ended; aborts of what had begun; and
        at the end the ledger's totals and the use of drafts."""

    def run(self, traffic: Traffic) -> None:
        """Compare the two after each step, until all is over."""
        engines, number = (self.local_engine, self.simulated_engine), 0
        while number < traffic.num_steps or any(engine.has_unfinished for engine in engines):
            for request in traffic.arrivals.get(number, []):
                for engine in engines:
                    engine.add(deepcopy(request))
            if number in traffic.aborts:
                self._abort(*traffic.aborts[number])
            self._step()
            number += 1
        for engine in engines:
            ledger = engine.ledger()
            assert (ledger.num_used_blocks, ledger.num_swapped_blocks) == (0, 0)
        self.happened.update(asdict(ledger.totals))
        self.happened.update(msgspec.structs.asdict(engine.load.drafts))

    def _abort(self, share: float, is_whole: bool) -> None:
        queues = self.local_engine.scheduler.queues
        begun = [request for request in [*queues.running, *queues.waiting] if request.has_begun]
        if not begun:
            return
        request = begun[int(share * len(begun))]
        request_id, index = request.request_id, None if is_whole else request.sequences[-1].index
        was_open = self.local_engine.abort(request_id, index)
        assert self.simulated_engine.abort(request_id, index) == was_open
        self.happened["aborted"] += was_open

    def _step(self) -> None:
        self.local.submitted = self.simulated.submitted = {}
        updates = comparable(self.local_engine.step())
        simulated_updates = comparable(self.simulated_engine.step())
        assert self.simulated.submitted == self.local.submitted
        assert simulated_updates == updates
        assert self.simulated_engine.ledger() == self.local_engine.ledger()
        self._compare_tables(self.local.runner.rows)
        self._note(self.local.submitted, updates)

    def _compare_tables(self, rows: RowTables) -> None:
        """The tables of the simulated side's sequences are those that the local runner keeps of their rows, as far as
        they still hold blocks."""
        for request in self.simulated_engine.scheduler.running:
            for sequence in request.sequences:
                table, row = sequence.table, sequence.row
                if not table.num_blocks:
                    continue  # a beam, of whose fork the next plan tells
                if self.drafter is None:
                    assert rows.num_blocks[row] == table.num_blocks
                else:  # the next plan tells of blocks that only wrong drafts had
                    assert rows.num_blocks[row] >= table.num_blocks
                for known, blocks, first in zip(rows.blocks, table.groups, table.firsts, strict=True):
                    assert known[row, first : len(blocks)].tolist() == blocks[first:]
                self.happened["passed by a window"] += any(table.firsts)

    def _note(self, submitted: Fields, updates: list[RequestUpdate]) -> None:
        self.happened.update(name for name, entries in submitted.items() if entries)
        if submitted:
            ends = {*submitted["logits_from"], *submitted["pooled"]}
            chunks = [index for index, count in enumerate(submitted["num_new"]) if count > 1 and index not in ends]
            self.happened["chunk"] += bool(chunks)
            self.happened["later sample"] += any(new.index >= MAX_NUM_SEQS for new in submitted["added"])
        for update in updates:
            for sequence in update.sequences:
                own_stop = "stop token" if sequence.stop_token_id is not None else None
                self.happened[own_stop or sequence.finish_reason or "goes on"] += 1


@dataclass(frozen=True)
class Tiny:
    """A checkpoint, and its KV cache."""

    folder: Path
    block_bytes: int
    num_blocks: int
    num_groups: int


@pytest.fixture(scope="module", params=CHECKPOINTS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    architecture, variant, num_blocks = CHECKPOINTS[request.param]
    folder = make_checkpoint(tmp_path_factory.mktemp("tiny"), architecture, variant)
    config = EngineConfig(model=str(folder), block_size=BLOCK_SIZE, kv_cache_memory="1MiB", num_threads=1)
    probe = LocalExecutor(config)
    probe.close()
    return Tiny(folder, probe.capacity.block_bytes, num_blocks, len(probe.capacity.layer_groups.groups))


@pytest.mark.parametrize(("seed", "name"), list(enumerate(SETTINGS)), ids=SETTINGS)
def test_same_outcomes_lead_to_same_schedules(
    tiny: Tiny, seed: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = SETTINGS[name]
    config = EngineConfig(
        model=str(tiny.folder),
        block_size=BLOCK_SIZE,
        kv_cache_memory=tiny.num_blocks * tiny.block_bytes,
        swap_space=int(tiny.num_blocks * setting.swap_share) * tiny.block_bytes,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=2 * MAX_NUM_SEQS,
        speculate="off",  # but for the drafter that is given
        num_threads=1,
        **setting.knobs,
    )
    comparison = Comparison(config, setting.drafter, monkeypatch)
    comparison.run(Traffic.draw(seed))
    comparison.local.close()
    wanted = ALWAYS | setting.also | ({"passed by a window"} if tiny.num_groups > 1 else set())
    assert [each for each in sorted(wanted) if not comparison.happened[each]] == [], "has not happened"
