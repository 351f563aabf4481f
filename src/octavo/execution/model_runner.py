"""Turns a plan into tensors, runs the model on them and samples. Nothing here knows requests or decides anything.

A device may work beside the host (`DeviceQueue.runs_ahead`). Then `launch` waits for nothing: the tokens that a step
samples stay on the device, where the next step reads them, and are copied to the host on the way.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from octavo.execution.block_moves import BlockMoves
from octavo.execution.device_output import DeviceOutput
from octavo.execution.device_queue import DeviceQueue, HostQueue
from octavo.execution.device_rows import DeviceRows
from octavo.execution.drafts import Drafter, accepted_positions, join_positions, sampled_positions
from octavo.execution.faults import BROKEN_LOGITS, find_faulty
from octavo.execution.plan import NewRow, Plan, StepOutput
from octavo.execution.pooler import BROKEN_STATES, Pooler
from octavo.execution.row_tables import IntArray, RowTables
from octavo.execution.step_buffers import StagedBatch, StepBuffers
from octavo.kernels.cache import KVCache
from octavo.kernels.interface import Kernels, Model
from octavo.kernels.packed_weights import PackedWeights
from octavo.kernels.sampling.interface import NO_TOKEN, Sampled, SamplingBatch, TokenIds
from octavo.kernels.upload import upload
from octavo.layer_groups import FULL
from octavo.layers.parallel import TensorParallel
from octavo.pooling import Pooling
from octavo.sampling.grammars import NO_GRAMMARS, Grammars
from octavo.sampling.matchers import RowMatchers
from octavo.sampling.table import SamplingTable
from octavo.sampling.told import brought, brought_scores, row_candidates, row_logprobs, told_logprobs
from octavo.sampling_params import SamplingParams
from octavo.stopwatch import Stopwatch

SCORED_AT_ONCE = 256
"""Prompt positions whose logits are held at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerLimits:
    """The largest step, for which buffers are allocated. A larger one makes room for itself."""

    max_model_len: int
    max_num_tokens: int
    """New tokens of a step."""
    max_num_rows: int
    steps_in_flight: int = 1
    captures: bool = False
    """Whether kernels may capture steps to replay them: then the cache has one record more than rows use, which padding
    writes to."""


class ModelRunner:
    """One model, its KV cache and the rows it is working on. `launch` starts a step, `collect` waits for it; steps are
    collected in the order in which they were launched."""

    def __init__(
        self,
        model: Model,
        kernels: Kernels,
        cache: KVCache,
        limits: RunnerLimits,
        swap_space: KVCache | None = None,
        ranks: TensorParallel | None = None,
        drafter: Drafter | None = None,
        grammars: Grammars = NO_GRAMMARS,
        queue: DeviceQueue | None = None,
        pooling: Pooling | None = None,
        *,
        foretells: bool = False,
        packed: PackedWeights | None = None,
    ) -> None:
        """`swap_space` has records of the same shape as the cache's, for the blocks of preempted requests. `ranks` are
        the runners that hold the model together. All follow the same plans; rank 0 has the logits, so it samples, and
        tells the others. `drafter` guesses tokens for the plans that follow, and with `foretells` those are guesses
        that a row's grammar forces. `queue` is how the cache's device takes its work, by default at once. `pooling` is
        how prompts are pooled, by default the last token. `packed` is where the model's weights are kept packed."""
        self.forward = kernels.bind(model, cache, limits.max_num_rows if limits.captures else 0, packed)
        self.kernels = kernels
        self.cache = cache
        self.ranks = ranks or TensorParallel()
        self.drafter = drafter
        self._foretells = foretells
        self.queue = queue or HostQueue()
        self._moves = BlockMoves(kernels, cache, swap_space, self.queue)
        shape = cache.shape
        self.rows = RowTables(limits.max_model_len, shape.block_size, shape.num_groups, limits.max_num_rows)
        self._device_rows = DeviceRows(self.rows, self._device) if self.queue.runs_ahead else None
        self.sampling = SamplingTable()
        self.matchers = RowMatchers(grammars)
        self.pooler = Pooler(pooling or Pooling(), model)
        self.watch = Stopwatch("prepare", "move", "forward", "logits", "sample", "wait")
        self._launched: deque[DeviceOutput] = deque()
        """The steps that have not been collected."""
        most_padded = self.forward.padded_rows(limits.max_num_rows)
        self._buffers = StepBuffers(
            self.rows,
            self._device_rows,
            self.queue,
            self._device,
            max_tokens=max(limits.max_num_tokens, most_padded),
            max_rows=most_padded,
            steps_in_flight=limits.steps_in_flight,
            padding_block=shape.num_blocks - 1,
            full_groups=[group for group, kind in enumerate(shape.layer_groups.kinds) if kind == FULL],
        )

    @torch.inference_mode()
    def launch(self, plan: Plan) -> DeviceOutput:
        """Start a step: the plan's changes, its swaps and copies, then the KV writes and attention of its tokens, then
        sampling. The sampled tokens are the rows' own when this returns, so that the next step can follow."""
        self.watch.start()
        began = self.queue.mark()
        launched = DeviceOutput(began, began, began, began, began, num_drafts=plan.num_drafts if plan.decodes else None)
        self.follow(plan)
        staged = self.stage(plan) if plan.rows else None
        self.watch.lap("prepare")
        before = self._launched[-1] if self._launched and self.queue.runs_ahead else None
        self._moves.start(plan, launched, before)
        self.watch.lap("move")
        if staged is not None:
            launched.written = staged.written
            self.forward.run(staged.batch)
            self.watch.lap("forward")
            for index in plan.scored:
                self._score(plan, index, int(staged.ends[index]), launched)
            self.pooler.keep(plan, staged.ends, self.forward)
            if plan.pooled:
                self._pool(plan, staged.ends, launched)
            if plan.sampled_rows:
                self._sample(plan, staged.ends, launched)
        launched.ended = self.queue.mark()
        self._launched.append(launched)
        self.watch.lap("sample")
        return launched

    def collect(self, launched: DeviceOutput) -> StepOutput:
        """Wait for a step and tell what it gave."""
        self.watch.start()
        launched.ended.wait()
        while self._launched and self._launched.popleft() is not launched:
            pass  # of steps before it nobody wants to know
        self._land(launched)
        self.watch.lap("wait")
        output = StepOutput([], compute_s=launched.compute_s, move_s=launched.move_s)
        parts = iter(launched.scores)
        for count in launched.num_parts:
            chunks = [next(parts) for _ in range(count)]
            told = (own for scores, num_top in chunks for own in told_logprobs(scores, [num_top] * len(scores.ranks)))
            output.prompt_logprobs.append([one for (one,) in told])
        if launched.batch is not None and launched.sampled is not None and launched.token_ids is not None:
            for row in launched.row_of[launched.sampled.broken.numpy()].tolist():
                launched.faults.setdefault(row, BROKEN_LOGITS)
            output.token_ids = [[token] if token != NO_TOKEN else [] for token in launched.token_ids.tolist()]
            output.logprobs = row_logprobs(launched.sampled.scores, launched.batch)
            output.candidates = row_candidates(launched.sampled.candidates, launched.batch)
            if launched.accepted is not None:
                join_positions(output, launched.accepted)
            output.drafts = self._drafts(launched, output)
        for pooled in launched.pooled:
            numbers = self.pooler.finished(pooled)
            if numbers is None:
                launched.faults.setdefault(pooled.row, BROKEN_STATES)
            output.pooled.append(numbers or b"")
        output.faults = list(launched.faults.items())
        self.watch.lap("sample")
        return output

    def _drafts(self, launched: DeviceOutput, output: StepOutput) -> list[list[int]]:
        """Guesses at the sampled rows' next tokens: what a row's grammar forces, or else what the drafter proposes."""
        drafts: dict[int, list[int]] = {}
        drawn = [row for row, tokens in zip(launched.rows, output.token_ids, strict=True) if tokens]
        if self._foretells and self.matchers.has_any(launched.row_of):
            drafts = {row: self.matchers.forced(row, self.rows.output_token_ids(row)) for row in drawn}
        if self.drafter is not None:
            if launched.num_drafts is not None:
                self.drafter.learn(len(launched.rows), launched.num_drafts, launched.compute_s)
            free = [row for row in drawn if not drafts.get(row)]
            drafts |= zip(free, self.drafter.propose(free, self.rows), strict=True)
        return [drafts.get(row, []) for row in launched.rows] if any(drafts.values()) else []

    def _settle(self) -> None:
        """Wait for the steps in flight, so that the rows have all of their tokens on the host."""
        for launched in self._launched:
            launched.ended.wait()
            self._land(launched)

    def _land(self, launched: DeviceOutput) -> None:
        """Put a finished step's tokens into the rows, where they are still missing."""
        if launched.in_flight is not None and launched.token_ids is not None:
            rows, places, positions = launched.in_flight
            self.rows.land(rows, places, launched.token_ids.numpy()[positions])
            launched.in_flight = None

    def _history(self, row: int, num_generated: int) -> tuple[TokenIds, TokenIds]:
        """As `RowTables.token_ids`, of a row whose tokens may be in flight."""
        self._settle()
        return self.rows.token_ids(row, num_generated)

    def follow(self, plan: Plan) -> None:
        """Apply the plan to the rows and their sampling, computing nothing."""
        in_flight = {row for launched in self._launched for row in launched.rows}
        if in_flight:
            begun = {new.row for new in plan.added}.union(*((fork.row, fork.parent) for fork in plan.forked))
            if not in_flight.isdisjoint(begun):
                self._settle()
        self.rows.apply(plan)
        if self.drafter is not None:
            self.drafter.follow(plan)
        if self._device_rows is not None:
            self._device_rows.follow()
        for row in plan.released:
            self.matchers.drop_state(row)
        for row in plan.removed:
            self.sampling.clear_row(row)
            self.matchers.clear_row(row)
            self.pooler.clear_row(row)
        for new in plan.added:
            self.matchers.set_row(new.row, new.grammar, new.reasoning)
            if new.task == "generate":
                self._set_sampling(new)
            else:
                self.pooler.set_row(new)
        for fork in plan.forked:
            self.sampling.copy_row(fork.parent, fork.row, fork.index)
            self.matchers.copy_row(fork.parent, fork.row)

    def _set_sampling(self, new: NewRow) -> None:
        self.sampling.set_row(
            new.row,
            new.params,
            seed=new.seed,
            sequence_index=new.index,
            stop_token_ids=new.stop_token_ids,
            num_candidates=new.num_candidates,
            bad_words=new.bad_words,
        )

    def stage(self, plan: Plan) -> StagedBatch:
        """The step's tokens as one flat list, with where each row's KV lives."""
        num_rows = self.forward.padded_rows(len(plan.rows)) if max(plan.num_new) == 1 else 0
        return self._buffers.stage(plan, num_rows)

    @property
    def _device(self) -> torch.device:
        return self.cache.records.device

    def _sample(self, plan: Plan, ends: IntArray, launched: DeviceOutput) -> None:
        """The accepted drafts and a token for each of the plan's sampled rows, appended to it, or candidates for a
        beam; `ends` are the flat indices of the rows' last tokens."""
        rows: IntArray = np.array(plan.sampled_rows, np.int64)
        sampled = sampled_positions(plan, ends) if plan.drafts else None
        if sampled is None:
            places = ends[plan.logits_from]
        else:
            places, rows = sampled.places, rows.repeat(sampled.counts)
        num_ahead: IntArray = np.zeros_like(rows) if sampled is None else sampled.num_ahead
        launched.rows, launched.row_of = plan.sampled_rows, rows
        chosen = self.ranks.from_first(self._choose(rows, num_ahead, places, launched))
        launched.token_ids = self.queue.to_host(chosen)
        if sampled is None:
            self._append(rows, chosen, launched)
            return
        self.queue.mark().wait()
        token_ids = launched.token_ids.numpy()
        launched.accepted = accepted_positions(plan, sampled.counts, token_ids.tolist())
        last: IntArray = np.array([own[-1] for own in launched.accepted], np.int64)
        last = last[~self.sampling.are_beams(rows[last])]
        self.rows.append(rows[last], token_ids[last], sampled.num_ahead[last])

    def _append(self, rows: IntArray, chosen: torch.Tensor, launched: DeviceOutput) -> None:
        """Give rows the tokens chosen for them; a beam is given none."""
        drawn = np.flatnonzero(~self.sampling.are_beams(rows))
        if self._device_rows is None:
            self.rows.append(rows[drawn], chosen.numpy()[drawn])
        elif len(drawn):
            own = chosen if len(drawn) == len(rows) else chosen.index_select(0, upload(drawn, self._device))
            self._device_rows.keep(rows[drawn], own)
            launched.in_flight = rows[drawn], self.rows.append_in_flight(rows[drawn]), drawn

    def _choose(self, rows: IntArray, num_ahead: IntArray, places: IntArray, launched: DeviceOutput) -> torch.Tensor:
        """The tokens of some rows, behind so many drafts, from the logits at these places of the step's flat list.
        Other ranks than 0 only help to compute logits; what they give means nothing."""
        is_masked = self.matchers.has_any(rows)
        plain = None if is_masked or self.ranks.size > 1 else self.sampling.plain_batch(rows, [])
        if plain is not None:
            batch, sampled = plain, Sampled(*self.forward.most_likely(places, plain.fallback))
            self.watch.lap("logits")
        else:
            logits = self._logits(places)
            self.watch.lap("logits")
            if self.ranks.rank > 0:
                return torch.zeros(len(places), dtype=torch.int64, device=self._device)
            batch, sampled = self._sample_well(rows, num_ahead, logits, launched.faults)
        launched.batch = batch
        launched.sampled = brought(sampled, self.queue.to_host) if self.queue.runs_ahead else sampled
        return sampled.token_ids

    def _sample_well(
        self, rows: IntArray, num_ahead: IntArray, logits: torch.Tensor, faults: dict[int, str]
    ) -> tuple[SamplingBatch, Sampled]:
        """What is sampled from some rows' logits. A row that cannot be sampled is noted among the faults, and what it
        is given means nothing; the others get what they get without it."""

        def attempt(chosen: Sequence[int]) -> tuple[SamplingBatch, Sampled]:
            own = np.flatnonzero(np.isin(rows, chosen))
            return self._sample_rows(rows[own], num_ahead[own], logits[own])

        try:
            return self._sample_rows(rows, num_ahead, logits)
        except Exception as error:
            found = find_faulty(attempt, list(dict.fromkeys(rows.tolist())), error)
            if not found:
                raise
        faults |= found
        for row in found:
            self.sampling.set_row(row, SamplingParams(temperature=0), 0, 0, [])
            self.matchers.clear_row(row)
        logits[np.flatnonzero(np.isin(rows, list(found)))] = 0
        return self._sample_rows(rows, num_ahead, logits)

    def _sample_rows(self, rows: IntArray, num_ahead: IntArray, logits: torch.Tensor) -> tuple[SamplingBatch, Sampled]:
        masks: list[tuple[int, bytes]] = []
        if self.matchers.has_any(rows):
            masks = self.matchers.masks(rows, self.rows.num_generated(rows) + num_ahead, self._history)
        batch = self.sampling.plain_batch(rows, masks) or self.sampling.batch(
            rows, self.rows.num_generated(rows) + num_ahead, self._history, masks
        )
        return batch, self.kernels.sample(logits, batch)

    def _logits(self, places: IntArray) -> torch.Tensor:
        """`[n, vocab_size]`. A place may come twice, as forks share their parent's: it is computed once."""
        distinct, index = np.unique(places, return_inverse=True)
        if len(distinct) == len(places):
            return self.forward.logits(places)
        return self.forward.logits(distinct).index_select(0, upload(index.astype(np.int64), self._device))

    def _pool(self, plan: Plan, ends: IntArray, launched: DeviceOutput) -> None:
        """Pool the prompts that end with this step."""
        pooled = self.pooler.pooled(plan, ends, self.forward, self.ranks.rank == 0)
        if pooled:
            values = self.queue.to_host(torch.cat([row.values for row in pooled]))
            parts = values.split_with_sizes([len(row.values) for row in pooled])
            launched.pooled = [replace(row, values=part) for row, part in zip(pooled, parts, strict=True)]

    def _score(self, plan: Plan, index: int, end: int, launched: DeviceOutput) -> None:
        """Score the prompt tokens that follow those computed now for `plan.rows[index]`."""
        row, start, num_new = plan.rows[index], plan.starts[index], plan.num_new[index]
        prompt, _ = self.rows.token_ids(row, 0)
        targets = upload(prompt[start + 1 : start + num_new + 1].astype(np.int64), self._device)
        first = end + 1 - num_new
        num_top = self.sampling.num_prompt_logprobs(row)
        launched.num_parts.append(0)
        for offset in range(0, len(targets), SCORED_AT_ONCE):
            chunk = targets[offset : offset + SCORED_AT_ONCE]
            logits = self.forward.logits(np.arange(first + offset, first + offset + len(chunk)))
            if self.ranks.rank == 0 and row not in launched.faults:
                try:
                    scores = self.kernels.score(logits, chunk.unsqueeze(1), num_top)
                    launched.scores.append((brought_scores(scores, self.queue.to_host), num_top))
                    launched.num_parts[-1] += 1
                except Exception as error:
                    launched.faults |= find_faulty(lambda _: None, [row], error)
