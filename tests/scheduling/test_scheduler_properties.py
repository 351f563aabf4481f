"""Whatever arrives, however long, with whatever pool: every step is right, nothing is lost, nothing leaks."""

import random
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from octavo.config import KVAllocation, PreemptionMode, PrefixCacheScope, SchedulingPolicy
from octavo.engine.engine import Engine
from octavo.errors import ConfigError, RequestError
from octavo.execution.executor import Capabilities
from octavo.execution.simulated import beam_state, hashed_candidates, hashed_token
from octavo.layer_groups import Full, LayerGroups, Window, group_layers, one_group
from octavo.outputs import BeamCandidates
from octavo.sampling_params import BeamSearchParams, SamplingParams
from octavo.scheduling import EngineRequest, SequenceUpdate
from octavo.scheduling.beam_search import BeamSearch, Hypothesis
from octavo.structured_outputs import Grammar
from scheduling.checking import ShadowExecutor, capacity, check_drafts, check_engine, seed_of

GROUPS = [
    one_group(2),
    one_group(2, Window(7)),
    group_layers([Full(), Window(5)]),
    group_layers([Window(3), Full(), Window(12), Window(3)]),
]
ALLOCATIONS: list[KVAllocation] = ["paged", "contiguous-max", "contiguous-pow2", "contiguous-oracle"]
EOS = 3
VOCAB_SIZE = 40
SCOPES: list[PrefixCacheScope] = ["tenant", "global", "off"]
POLICIES: list[SchedulingPolicy] = ["fcfs", "shortest-first", "priority", "static"]
MODES: list[PreemptionMode] = ["auto", "recompute", "swap"]
CAPABILITIES = Capabilities(adapters=("french", "legal"), grammars=frozenset({"json"}))


@dataclass(frozen=True)
class Shape:
    """An engine to be tried."""

    num_blocks: int
    block_size: int
    max_num_seqs: int
    extra_budget: int
    depth: int
    scope: PrefixCacheScope
    pins: tuple[int, ...]
    """Tokens of each pinned prefix, of the first family of prompts; what does not fit must be refused."""
    mode: PreemptionMode = "auto"
    num_swap_blocks: int = 0
    layer_groups: LayerGroups = GROUPS[0]
    allocation: KVAllocation = "paged"
    max_drafts: int = 0
    policy: SchedulingPolicy = "fcfs"


def searched_alone(request: EngineRequest) -> list[Hypothesis]:
    """What the request's beam search finds with every beam's candidates made from its tokens, and no scheduler."""
    settings, stops = request.params.beams, frozenset() if request.params.ignore_eos else frozenset({EOS})
    assert settings is not None
    search = BeamSearch(settings, request.params.max_tokens or 0, stops)

    def candidates(token_ids: list[int]) -> BeamCandidates:
        return hashed_candidates(beam_state(request.seed, token_ids), search.num_candidates, VOCAB_SIZE)

    while search.advance([candidates(beam.token_ids) for beam in search.beams]):
        pass
    return search.hypotheses


class Traffic:
    """Submits, aborts and steps, and knows what every request must get.

    Prompts come in families, whose members begin alike, from two tenants with and without a salt or an adapter, and
    some go on where an earlier request ended.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.executor = ShadowExecutor(
            capacity(
                shape.num_blocks,
                shape.block_size,
                max_model_len=200,
                vocab_size=VOCAB_SIZE,
                eos=EOS,
                num_swap_blocks=shape.num_swap_blocks,
                layer_groups=shape.layer_groups,
                max_drafts=shape.max_drafts,
                capabilities=CAPABILITIES,
            ),
            depth=shape.depth,
        )
        self.engine = Engine(
            self.executor,
            max_num_seqs=shape.max_num_seqs,
            max_num_batched_tokens=shape.max_num_seqs + shape.extra_budget,
            prefix_cache_scope=shape.scope,
            preemption_mode=shape.mode,
            kv_allocation=shape.allocation,
            scheduling_policy=shape.policy,
            overtaking_time=100.0,
        )
        self.requests: dict[str, EngineRequest] = {}
        self.got: dict[str, dict[int, list[int]]] = {}
        self.open: dict[str, set[int]] = {}
        self.conversations: list[list[int]] = []
        self.num_refused = 0
        for length in shape.pins if shape.allocation == "paged" else ():
            self._pin(length)

    def _pin(self, length: int) -> None:
        memory, num_full = self.engine.scheduler.memory, length // self.shape.block_size
        num_blocks = self.engine.scheduler.limits.demand.of_request(0, num_full * self.shape.block_size, 1)
        num_groups = len(self.shape.layer_groups.groups)
        if 0 < num_blocks <= memory.num_blocks - memory.num_pinned_blocks - num_groups:
            self.engine.pin(family_prompt(0, length), "pin.txt")
        else:
            with pytest.raises(ConfigError, match=r"--pin-prefix pin\.txt"):
                self.engine.pin(family_prompt(0, length), "pin.txt")
        check_engine(self.engine)

    def submit(self, asked: "Asked") -> None:
        number = len(self.requests) + self.num_refused
        num_prompt, max_tokens, n = asked.num_prompt, asked.max_tokens, asked.n
        shared: dict[str, Any] = {
            "max_tokens": max_tokens,
            "ignore_eos": asked.ignore_eos,
            "prompt_logprobs": 0 if asked.scored else None,
        }
        params = SamplingParams(n=n, **shared)
        if asked.searches:
            shared["early_stopping"] = (True, False, "never")[number % 3]
            params = BeamSearchParams(beam_width=n, **shared).sampling_params()
        prompt = family_prompt(asked.family, num_prompt)
        if asked.follows and self.conversations:
            prompt = (self.conversations[number % len(self.conversations)] + prompt)[:num_prompt]
        owner = self._owner(asked)
        request = EngineRequest(
            str(number),
            prompt,
            params,
            arrival_s=float(number),
            seed=seed_of(owner, number),
            tenant=asked.tenant,
            cache_salt=asked.salt,
            output_len_hint=None if number % 2 else 1 + number % max_tokens,
            adapter=asked.adapter,
            grammar=Grammar("json") if number % 3 == 0 else None,
            priority=number * 7 % 5 - 2 if self.shape.policy == "priority" else 0,
        )
        limits = self.engine.scheduler.limits
        most = min(limits.max_num_seqs, limits.max_num_batched_tokens)
        num_at_once = n if asked.searches else min(n, most)
        room = sum(
            num_prompt + more <= limits.max_model_len
            and limits.demand.of_request(num_prompt, num_prompt + more, num_at_once) <= limits.num_blocks
            for more in range(1, max_tokens + 1)
        )
        if room == 0 or num_at_once > most:
            with pytest.raises(RequestError):
                self.engine.add(request)
            self.num_refused += 1
            return
        self.engine.add(request)
        cut = msgspec.structs.replace(params, max_tokens=room)
        self.requests[request.request_id] = msgspec.structs.replace(request, params=cut)
        self.got[request.request_id] = {index: [] for index in range(n)}
        self.open[request.request_id] = set(range(n))

    def _owner(self, asked: "Asked") -> int:
        """One number for all requests that may share their blocks."""
        tenant = "" if self.shape.scope == "global" else asked.tenant
        return 1 + ("ab".find(tenant) if tenant else 0) + 2 * (asked.salt is not None)

    def abort(self, request_id: str, index: int | None) -> None:
        if self.requests[request_id].params.beams is not None and index is not None:
            assert not self.engine.abort(request_id, index)
            return
        was_open = self.open[request_id] if index is None else self.open[request_id] & {index}
        assert self.engine.abort(request_id, index) == bool(was_open)
        self.open[request_id] = self.open[request_id] - was_open
        for dead in was_open:
            del self.got[request_id][dead]

    def step(self) -> None:
        queues = self.engine.scheduler.queues
        num_begun = queues.num_begun
        has_batch = any(request.first_scheduled_s is not None for request in [*queues.running, *queues.waiting])
        updates = self.engine.step()
        if self.shape.policy == "static" and has_batch:
            assert queues.num_begun == num_begun, "somebody joined a batch"
        for update in updates:
            request = self.requests[update.request_id]
            if update.prompt_logprobs is not None:
                assert [s.token_id for s in update.prompt_logprobs] == request.prompt_token_ids[1:]
            for sequence in update.sequences:
                assert sequence.index in self.open[update.request_id], "a token for a sequence that is over"
                self.got[update.request_id][sequence.index] += sequence.token_ids
                if sequence.finish_reason:
                    self.open[update.request_id].remove(sequence.index)
                    if request.params.beams is None:
                        self._check_tokens(request, sequence.index, sequence.finish_reason)
                    else:
                        self._check_hypothesis(request, sequence)
        check_engine(self.engine)

    def _check_tokens(self, request: EngineRequest, index: int, reason: str) -> None:
        wanted: list[int] = []
        while len(wanted) < (request.params.max_tokens or 0):
            wanted.append(hashed_token(request.seed, index, len(wanted), 40))
            if wanted[-1] == EOS and not request.params.ignore_eos:
                break
        assert self.got[request.request_id][index] == wanted
        self.conversations.append(request.prompt_token_ids + wanted)
        assert reason == ("stop" if wanted[-1] == EOS and not request.params.ignore_eos else "length")

    def _check_hypothesis(self, request: EngineRequest, got: SequenceUpdate) -> None:
        wanted = searched_alone(request)[got.index]
        assert (got.token_ids, got.cumulative_logprob) == (wanted.token_ids, wanted.cumulative_logprob)
        ends = got.token_ids[-1] == EOS and not request.params.ignore_eos
        assert got.finish_reason == ("stop" if ends else "length")

    def finish(self) -> None:
        for _ in range(100_000):
            if not self.engine.has_unfinished:
                break
            self.step()
        assert not any(self.open.values()), "a request was lost"
        ledger = self.engine.ledger()
        assert ledger.num_used_blocks == ledger.num_pinned_blocks, "blocks were left behind"
        assert ledger.num_swapped_blocks == 0, "the swap space is not empty"
        leaves_nothing = self.shape.scope == "off" and not (
            self.shape.pins and self.engine.scheduler.memory.demand.has_windows
        )
        assert not leaves_nothing or ledger.num_cached_blocks == 0, "only what pins' windows have passed may be found"


@dataclass(frozen=True)
class Asked:
    """A request to be tried."""

    num_prompt: int
    max_tokens: int
    n: int = 1
    family: int = 0
    tenant: str = "a"
    salt: str | None = None
    adapter: str | None = None
    follows: bool = False
    ignore_eos: bool = False
    scored: bool = False
    searches: bool = False
    """For n hypotheses of a beam search as wide."""


def family_prompt(family: int, num_tokens: int) -> list[int]:
    return [(family * 7 + i) % 40 for i in range(num_tokens)]


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        shape=st.builds(
            Shape,
            num_blocks=st.integers(1, 200),
            block_size=st.integers(1, 5),
            max_num_seqs=st.integers(1, 12),
            extra_budget=st.integers(0, 30),
            depth=st.integers(1, 2),
            scope=st.sampled_from(SCOPES),
            pins=st.lists(st.integers(1, 20), max_size=2).map(tuple),
            mode=st.sampled_from(MODES),
            num_swap_blocks=st.integers(0, 40),
            layer_groups=st.sampled_from(GROUPS),
            allocation=st.just("paged") | st.sampled_from(ALLOCATIONS),
            max_drafts=st.sampled_from([0, 1, 4]),
            policy=st.sampled_from(POLICIES),
        )
    )
    def start(self, shape: Shape) -> None:
        self.traffic = Traffic(shape)

    @rule(
        asked=st.builds(
            Asked,
            num_prompt=st.integers(1, 40),
            max_tokens=st.integers(1, 30),
            n=st.integers(1, 5),
            family=st.integers(0, 2),
            tenant=st.sampled_from(["a", "b"]),
            salt=st.sampled_from([None, None, "salt"]),
            adapter=st.sampled_from([None, None, "french", "legal"]),
            follows=st.booleans(),
            ignore_eos=st.booleans(),
            scored=st.booleans(),
            searches=st.booleans(),
        )
    )
    def submit(self, asked: Asked) -> None:
        self.traffic.submit(asked)

    @precondition(lambda self: self.traffic.requests)
    @rule(data=st.data(), whole=st.booleans())
    def abort(self, data: st.DataObject, whole: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.traffic.requests)))
        index = None if whole else data.draw(st.integers(0, self.traffic.requests[request_id].params.n - 1))
        self.traffic.abort(request_id, index)

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.traffic.step()

    @invariant()
    def memory_is_whole(self) -> None:
        if hasattr(self, "traffic"):
            check_engine(self.traffic.engine)

    @invariant()
    def drafts_preempt_nobody(self) -> None:
        if hasattr(self, "traffic"):
            check_drafts(self.traffic.engine)

    def teardown(self) -> None:
        if hasattr(self, "traffic"):
            self.traffic.finish()


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase


def random_run(seed: int, num_steps: int, allocation: KVAllocation = "paged") -> Traffic:
    """Random traffic that keeps the pool full: arrivals, lengths, n, aborts and pool sizes are drawn from the seed."""
    r = random.Random(seed)
    layer_groups = r.choice(GROUPS)
    size = 3 if allocation != "paged" else 1
    traffic = Traffic(
        Shape(
            num_blocks=int(size * r.randint(40, 90) * sum(0.5 if kind.most_seen else 1 for kind in layer_groups.kinds)),
            block_size=r.randint(1, 6),
            max_num_seqs=r.randint(4, 16),
            extra_budget=r.randint(0, 40),
            depth=r.randint(1, 2),
            scope=r.choice(SCOPES),
            pins=r.choice(((), (12,), (12, 15))),
            mode=r.choice(MODES),
            num_swap_blocks=r.choice((0, 20, 90)),
            layer_groups=layer_groups,
            allocation=allocation,
            max_drafts=r.choice((0, 1, 5)),
            policy=r.choice(POLICIES),
        )
    )
    for _ in range(num_steps):
        if traffic.engine.scheduler.num_waiting < 4 and r.random() < 0.5:
            asked = Asked(
                num_prompt=r.randint(1, 40),
                max_tokens=r.randint(1, 30),
                n=r.choice((1, 1, 2, 3, 5)),
                family=r.randint(0, 3),
                tenant=r.choice("ab"),
                salt=r.choice((None, None, "salt")),
                adapter=r.choice((None, None, None, "french", "legal")),
                follows=r.random() < 0.3,
                ignore_eos=r.random() < 0.5,
                scored=r.random() < 0.1,
                searches=r.random() < 0.4,
            )
            traffic.submit(asked)
        if r.random() < 0.02 and any(traffic.open.values()):
            request_id = r.choice([key for key, left in traffic.open.items() if left])
            traffic.abort(request_id, r.choice((None, *traffic.open[request_id])))
        traffic.step()
    traffic.finish()
    return traffic


@pytest.mark.parametrize("seed", range(11))
def test_long_random_traffic_ends_with_every_token_right(seed: int) -> None:
    traffic = random_run(seed, 1500, ALLOCATIONS[max(0, seed - 7)])
    assert len(traffic.requests) > 50


def test_random_traffic_preempts_copies_hits_drafts_and_refuses() -> None:
    runs = [random_run(seed, 400) for seed in range(100, 135)]
    assert sum(run.engine.ledger().totals.num_recomputes for run in runs) > 20
    assert sum(run.engine.ledger().totals.num_swaps for run in runs) > 20
    assert sum(run.executor.num_moved for run in runs) == sum(
        run.engine.ledger().totals.num_moved_blocks for run in runs
    )
    assert sum(run.engine.ledger().totals.num_hit_tokens for run in runs) > 1000
    assert sum(run.engine.ledger().num_pinned_blocks for run in runs) > 10
    assert sum(run.executor.num_copied for run in runs) > 20
    assert sum(run.num_refused for run in runs) > 0
    num_accepted = sum(run.executor.num_accepted for run in runs)
    assert 1000 < num_accepted < sum(run.executor.num_drafted for run in runs) - 1000
