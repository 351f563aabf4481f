"""An executor with a cost instead of a device: the same plans, tokens from a hash. Plain Python; drives tests,
benchmarks and the simulator."""

import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import NamedTuple

from octavo.execution.executor import Capacity, ExecutionTimes, LoadedModel, PendingOutput
from octavo.execution.plan import NewRow, Plan, StepOutput
from octavo.outputs import BeamCandidates, TokenLogprobs
from octavo.pooling import PoolingParams
from octavo.structured_outputs import Grammar, ReasoningSection

_GOLDEN, _MIX_1, _MIX_2, _MASK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1


def hashed_token(seed: int, index: int, position: int, vocab_size: int) -> int:
    """The token that a sequence of a request gets at an output position: SplitMix64 (Steele et al., OOPSLA 2014) of the
    three."""
    x = (seed + _GOLDEN * (index * 2**32 + position + 1)) & _MASK
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return (x ^ (x >> 31)) % vocab_size


def hashed_candidates(state: int, count: int, vocab_size: int) -> BeamCandidates:
    """What may come next in a beam of that `beam_state`: neighbouring token ids, with log-probabilities that floats add
    exactly."""
    count = min(count, vocab_size)
    first = hashed_token(state, 1, 0, vocab_size)
    steps_down = (1 + hashed_token(state, 2, place, 64) for place in range(count))
    logprobs = [-total / 64 for total in accumulate(steps_down)]
    return BeamCandidates([(first + place) % vocab_size for place in range(count)], logprobs)


def hashed_drafts(seed: int, index: int, position: int, vocab_size: int, count: int) -> list[int]:
    """Up to `count` guesses at the tokens that `hashed_token` gives from an output position on. How many there are, and
    which are right, three of four, is a hash as well."""
    num_drafts = hashed_token(seed, ~index, position, count + 1)
    return [
        (hashed_token(seed, index, place, vocab_size) + (hashed_token(seed, ~index, place, 4) == 0)) % vocab_size
        for place in range(position, position + num_drafts)
    ]


def beam_state(seed: int, token_ids: Iterable[int]) -> int:
    """A hash of a beam's output tokens, which can be handed in one after the other: `seed` is the state so far."""
    return reduce(lambda state, token_id: hashed_token(state, 0, token_id, 2**64), token_ids, seed)


class StepSeconds(NamedTuple):
    """What a step takes."""

    compute_s: float = 0.0
    """On the device, without its moves."""
    move_s: float = 0.0
    """On the device, for its swaps."""
    host_s: float = 0.0
    """To plan it, and to hand out what the one before gave."""


@dataclass(slots=True)
class _Step:
    """One that was submitted."""

    output: StepOutput
    end_s: float


NO_MODEL = LoadedModel(weight_bytes=0, dtype="none", kernels="Simulated: no model, tokens from a hash.")


class SimulatedExecutor:
    """Follows the rows of the plans it is given and counts the seconds that they would have cost.

    The host plans a step, which the device begins when it has it and has ended the one before. With a `depth` of 1 the
    one waits while the other works.

    Args:
        capacity: what it pretends to have.
        cost: what a plan takes; nothing by default.
        depth: steps in flight at once.
        loaded: what it says that it has.
    """

    sockets: Sequence[int] = ()

    def __init__(
        self,
        capacity: Capacity,
        cost: Callable[[Plan], StepSeconds] = lambda plan: StepSeconds(),
        depth: int = 1,
        loaded: LoadedModel = NO_MODEL,
    ) -> None:
        self.capacity = capacity
        self.loaded = loaded
        self.depth = depth
        self.clock_s = 0.0
        """Simulated seconds since the start, on the host."""
        self._device_s = 0.0
        """When the device will have ended what it was given."""
        self._last: _Step | None = None
        """The last step, until it is collected."""
        self._busy_s = {"forward": 0.0, "move": 0.0}
        self.cost = cost
        self._rows: dict[int, tuple[int, int, int]] = {}
        """Row -> (seed, sequence index, tokens generated)."""
        self.num_drafted = self.num_accepted = 0
        self._beams: dict[int, tuple[int, int]] = {}
        """Row of a beam -> (its state, the candidates to give)."""
        self._prompts: dict[int, list[int]] = {}
        self._widths: dict[int, int] = {}
        """Row that pools -> how many numbers it gives."""

    def submit(self, plan: Plan) -> PendingOutput:
        self._follow(plan)
        return self._pending(self._output(plan), self.cost(plan))

    def _follow(self, plan: Plan) -> None:
        """Take note of the rows that begin, fork and end, and of what beams have got."""
        rows = self._rows
        for row in plan.removed:
            rows.pop(row, None)
            self._prompts.pop(row, None)
            self._beams.pop(row, None)
            self._widths.pop(row, None)
        for new in plan.added:
            rows[new.row] = (new.seed, new.index, 0)
            self._prompts[new.row] = new.token_ids
            if new.pooling is not None:
                self._widths[new.row] = self._width(new, new.pooling)
            if new.num_candidates:
                self._beams[new.row] = (new.seed, new.num_candidates)
        for fork in plan.forked:
            seed, _, num_generated = rows[fork.parent]
            rows[fork.row] = (seed, fork.index, num_generated)
            self._prompts[fork.row] = self._prompts[fork.parent]
            if fork.parent in self._beams:
                self._beams[fork.row] = self._beams[fork.parent]
        for row, token_id in plan.chosen:
            state, count = self._beams[row]
            self._beams[row] = (beam_state(state, [token_id]), count)

    def _pending(self, output: StepOutput, cost: StepSeconds) -> PendingOutput:
        """An output that is there when the device has computed it."""
        output.compute_s, output.move_s = cost.compute_s, cost.move_s
        step = self._last = _Step(output, self._take(cost))

        def collect() -> StepOutput:
            if self._last is step:
                self._last = None
            self.clock_s = max(self.clock_s, step.end_s)
            return output

        return PendingOutput(collect)

    def _take(self, cost: StepSeconds) -> float:
        """The host gives the device a step. Returns the second at which that will have ended it."""
        self.clock_s += cost.host_s
        self._device_s = max(self.clock_s, self._device_s) + cost.compute_s + cost.move_s
        self._busy_s["forward"] += cost.compute_s
        self._busy_s["move"] += cost.move_s
        return self._device_s

    def repeat(self, plan: Plan, most: int, until_s: float) -> list[list[int]]:
        """Run a plan that gives each of its rows a token, then the same with each row a token longer, and so on: as if
        each was submitted, and the oldest step in flight collected.

        Args:
            plan: its rows are those of the step in flight, if there is one, in the same order. The last of the steps
                takes its place.
            most: how many steps it may be.
            until_s: the second before which each of them begins.

        Returns:
            The tokens that each row got, one a step.
        """
        self._follow(plan)
        in_flight, num_steps = self._last, 0
        while num_steps < most and self.clock_s < until_s:
            before_s = self._device_s
            end_s = self._take(self.cost(plan))
            self.clock_s = max(self.clock_s, before_s if in_flight else end_s)
            plan = Plan(
                rows=plan.rows,
                starts=[start + 1 for start in plan.starts],
                num_new=plan.num_new,
                sampled_rows=plan.sampled_rows,
                logits_from=plan.logits_from,
            )
            num_steps += 1
        given, size = in_flight.output.token_ids if in_flight else [[] for _ in plan.rows], self.capacity.vocab_size
        for row, token_ids in zip(plan.sampled_rows, given, strict=True):
            seed, index, position = self._rows[row]
            end = position + num_steps
            token_ids += [hashed_token(seed, index, place, size) for place in range(position, end)]
            self._rows[row] = seed, index, end
        if in_flight:
            in_flight.end_s = self._device_s
            in_flight.output.token_ids = [token_ids[num_steps:] for token_ids in given]
        return [token_ids[:num_steps] for token_ids in given]

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[None]:
        """Nothing is compiled here."""
        compiled: Future[None] = Future()
        compiled.set_result(None)
        return compiled

    def check(self) -> None:
        """Nothing can happen between two steps."""

    def times(self) -> ExecutionTimes:
        """In simulated seconds."""
        return ExecutionTimes(parts_s=dict(self._busy_s), operations_s={})

    def close(self) -> None:
        self._rows.clear()
        self._prompts.clear()
        self._beams.clear()
        self._widths.clear()

    def _output(self, plan: Plan) -> StepOutput:
        drafts = dict(plan.drafts)
        token_ids = [
            [] if row in self._beams else self._next_tokens(row, drafts.get(source, ()))
            for row, source in zip(plan.sampled_rows, plan.logits_from, strict=True)
        ]
        candidates = [
            (index, hashed_candidates(*self._beams[row], self.capacity.vocab_size))
            for index, row in enumerate(plan.sampled_rows)
            if row in self._beams
        ]
        pooled = [self._pooled(plan.rows[index]) for index in plan.pooled]
        return StepOutput(token_ids, [], self._scores(plan), candidates, pooled, self._drafts(plan))

    def _pooled(self, row: int) -> bytes:
        """Numbers from a hash of the row's prompt."""
        state, width = beam_state(0, self._prompts[row]), self._widths[row]
        return struct.pack(f"<{width}f", *(hashed_token(state, 0, place, 2**16) for place in range(width)))

    def _width(self, new: NewRow, asked: PoolingParams) -> int:
        """How many numbers a row that pools gives."""
        known = self.capacity.capabilities
        if new.task == "embed":
            return asked.dimensions or known.embedding_width
        return len(known.pooling.labels if new.task == "classify" else asked.label_token_ids or ())

    def _next_tokens(self, row: int, drafts: Sequence[int]) -> list[int]:
        """The drafts that are right, and one token more."""
        seed, index, position = self._rows[row]
        token_ids = [hashed_token(seed, index, position, self.capacity.vocab_size)]
        for draft in drafts:
            if draft != token_ids[-1]:
                break
            token_ids.append(hashed_token(seed, index, position + len(token_ids), self.capacity.vocab_size))
        self._rows[row] = (seed, index, position + len(token_ids))
        self.num_drafted += len(drafts)
        self.num_accepted += len(token_ids) - 1
        return token_ids

    def _drafts(self, plan: Plan) -> list[list[int]]:
        most, size = self.capacity.max_drafts, self.capacity.vocab_size
        if not most:
            return []
        return [[] if row in self._beams else hashed_drafts(*self._rows[row], size, most) for row in plan.sampled_rows]

    def _scores(self, plan: Plan) -> list[list[TokenLogprobs]]:
        scores = []
        for i in plan.scored:
            targets = self._prompts[plan.rows[i]][plan.starts[i] + 1 : plan.starts[i] + plan.num_new[i] + 1]
            scores.append([TokenLogprobs(token, 0.0, 1, [], []) for token in targets])
        return scores
