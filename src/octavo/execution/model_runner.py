"""Turns a plan into tensors, runs the model on them and samples. Nothing here knows requests or decides anything."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import torch

from octavo.execution.drafts import Drafter, accepted_positions, join_positions, sampled_positions
from octavo.execution.faults import BROKEN_LOGITS, find_faulty
from octavo.execution.plan import NewRow, Plan, StepOutput
from octavo.execution.row_tables import IntArray, RowTables
from octavo.execution.step_buffers import StagedBatch, StepBuffers
from octavo.kernels.cache import KVCache
from octavo.kernels.interface import Kernels, Model
from octavo.kernels.sampling.interface import NO_TOKEN, Sampled, SamplingBatch, Scores
from octavo.layers.parallel import TensorParallel
from octavo.sampling.grammars import NO_GRAMMARS, Grammars
from octavo.sampling.matchers import RowMatchers
from octavo.sampling.table import SamplingTable
from octavo.sampling.told import row_candidates, row_logprobs, told_logprobs
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


@dataclass(slots=True)
class DeviceOutput:
    """A step that has been started, and where its results will be."""

    scores: list[tuple[Scores, int]] = field(default_factory=list)
    """Parts of the scored rows' prompt positions, each with the number of likeliest tokens to tell of…"""
    num_parts: list[int] = field(default_factory=list)
    """…and how many parts each of these rows has."""
    batch: SamplingBatch | None = None
    """How the sampled rows are sampled; None where there are none."""
    sampled: Sampled | None = None
    token_ids: IntArray | None = None
    """`[num_sampled_positions]` on the host."""
    rows: list[int] = field(default_factory=list)
    """The rows that are sampled."""
    accepted: list[range] | None = None
    """The positions whose tokens each of them gets; None where each has one position."""
    faults: dict[int, str] = field(default_factory=dict)
    """What went wrong with a row, of those rows that failed."""
    compute_s: float = 0.0
    move_s: float = 0.0


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
    ) -> None:
        """`ranks` are the runners that hold the model together. All follow the same plans; rank 0 has the logits, so it
        samples, and tells the others. `drafter` guesses tokens for the plans that follow."""
        self.forward = kernels.bind(model, cache)
        self.kernels = kernels
        self.cache = cache
        self.swap_space = swap_space
        """Records of the same shape as the cache's, for the blocks of preempted requests."""
        self.ranks = ranks or TensorParallel()
        self.drafter = drafter
        shape = cache.shape
        self.rows = RowTables(limits.max_model_len, shape.block_size, shape.num_groups, limits.max_num_rows)
        self.sampling = SamplingTable()
        self.matchers = RowMatchers(grammars)
        self.watch = Stopwatch("prepare", "move", "forward", "logits", "sample")
        sizes = (limits.max_num_tokens, limits.max_num_rows, shape.num_groups, self._device)
        # A step's buffers may be read by a device until it is collected.
        self._buffers = cycle([StepBuffers(*sizes) for _ in range(limits.steps_in_flight)])

    @torch.inference_mode()
    def launch(self, plan: Plan) -> DeviceOutput:
        """Start a step: the plan's changes, its swaps and copies, then the KV writes and attention of its tokens, then
        sampling. The sampled tokens are the rows' own when this returns, so that the next step can follow."""
        launched = DeviceOutput()
        start_s = self.watch.start()
        self.follow(plan)
        staged = self.stage(plan) if plan.rows else None
        prepared_s = self.watch.lap("prepare")
        self._swap(plan)
        launched.move_s = self.watch.lap("move") - prepared_s
        self._copy(self.cache, self.cache, plan.copies)
        if staged is not None:
            self.forward.run(staged.batch)
            self.watch.lap("forward")
            ends = staged.ends
            for index in plan.scored:
                self._score(plan, index, int(ends[index]), launched)
            if plan.sampled_rows:
                self._sample(plan, ends, launched)
        launched.compute_s = self.watch.lap("sample") - start_s - launched.move_s
        return launched

    def collect(self, launched: DeviceOutput) -> StepOutput:
        """Wait for a step and tell what it gave."""
        self.watch.start()
        output = StepOutput(
            [], faults=list(launched.faults.items()), compute_s=launched.compute_s, move_s=launched.move_s
        )
        parts = iter(launched.scores)
        for count in launched.num_parts:
            chunks = [next(parts) for _ in range(count)]
            told = (own for scores, num_top in chunks for own in told_logprobs(scores, [num_top] * len(scores.ranks)))
            output.prompt_logprobs.append([one for (one,) in told])
        if launched.batch is not None and launched.sampled is not None and launched.token_ids is not None:
            output.token_ids = [[token] if token != NO_TOKEN else [] for token in launched.token_ids.tolist()]
            output.logprobs = row_logprobs(launched.sampled.scores, launched.batch)
            output.candidates = row_candidates(launched.sampled.candidates, launched.batch)
            if launched.accepted is not None:
                join_positions(output, launched.accepted)
            if self.drafter is not None:
                output.drafts = [
                    self.drafter.propose(self.rows.all_token_ids(row).tolist()) if tokens else []
                    for row, tokens in zip(launched.rows, output.token_ids, strict=True)
                ]
        self.watch.lap("sample")
        return output

    def follow(self, plan: Plan) -> None:
        """Apply the plan to the rows and their sampling, computing nothing."""
        self.rows.apply(plan)
        for row in plan.released:
            self.matchers.drop_state(row)
        for row in plan.removed:
            self.sampling.clear_row(row)
            self.matchers.clear_row(row)
        for new in plan.added:
            self.matchers.set_row(new.row, new.grammar)
            if new.task == "generate":
                self._set_sampling(new)
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
        return next(self._buffers).stage(plan, self.rows)

    @property
    def _device(self) -> torch.device:
        return self.cache.records.device

    def _swap(self, plan: Plan) -> None:
        """Move blocks out and back."""
        if self.swap_space is not None:
            self._copy(self.cache, self.swap_space, plan.swap_out)
            self._copy(self.swap_space, self.cache, plan.swap_in)

    def _copy(self, source: KVCache, destination: KVCache, pairs: list[tuple[int, int]]) -> None:
        """Copy blocks, all in one call: (source, destination) pairs."""
        if pairs:
            source_ids, destination_ids = torch.tensor(pairs, dtype=torch.int64, device=self._device).unbind(1)
            self.kernels.copy_blocks(source, destination, source_ids.contiguous(), destination_ids.contiguous())

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
        chosen = self._choose(rows, num_ahead, places, launched)
        token_ids = launched.token_ids = self.ranks.from_first(chosen).cpu().numpy()
        launched.rows = plan.sampled_rows
        num_accepted = np.zeros_like(rows)
        if sampled is not None:
            launched.accepted = accepted_positions(plan, sampled.counts, token_ids.tolist())
            last = [own[-1] for own in launched.accepted]
            rows, token_ids, num_accepted = rows[last], token_ids[last], sampled.num_ahead[last]
        drawn = token_ids != NO_TOKEN
        self.rows.append(rows[drawn], token_ids[drawn], num_accepted[drawn])

    def _choose(self, rows: IntArray, num_ahead: IntArray, places: IntArray, launched: DeviceOutput) -> torch.Tensor:
        """The tokens of some rows, behind so many drafts, from the logits at these places of the step's flat list.
        Other ranks than 0 only help to compute logits; what they give means nothing."""
        is_masked = self.matchers.has_any(rows)
        plain = None if is_masked or self.ranks.size > 1 else self.sampling.plain_batch(rows, [])
        if plain is not None:
            launched.batch, launched.sampled = plain, Sampled(*self.forward.most_likely(places, plain.fallback))
            self.watch.lap("logits")
        else:
            logits = self._logits(places)
            self.watch.lap("logits")
            if self.ranks.rank > 0:
                return torch.zeros(len(places), dtype=torch.int64, device=self._device)
            launched.batch, launched.sampled = self._sample_well(rows, num_ahead, logits, launched.faults)
        for row in rows[launched.sampled.broken.cpu().numpy()].tolist():
            launched.faults.setdefault(row, BROKEN_LOGITS)
        return launched.sampled.token_ids

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
            masks = self.matchers.masks(rows, self.rows.num_generated(rows) + num_ahead, self.rows.token_ids)
        batch = self.sampling.plain_batch(rows, masks) or self.sampling.batch(
            rows, self.rows.num_generated(rows) + num_ahead, self.rows.token_ids, masks
        )
        return batch, self.kernels.sample(logits, batch)

    def _logits(self, places: IntArray) -> torch.Tensor:
        """`[n, vocab_size]`. A place may come twice, as forks share their parent's: it is computed once."""
        distinct, index = np.unique(places, return_inverse=True)
        if len(distinct) == len(places):
            return self.forward.logits(places)
        return self.forward.logits(distinct)[index]

    def _score(self, plan: Plan, index: int, end: int, launched: DeviceOutput) -> None:
        """Score the prompt tokens that follow those computed now for `plan.rows[index]`."""
        row, start, num_new = plan.rows[index], plan.starts[index], plan.num_new[index]
        prompt, _ = self.rows.token_ids(row, 0)
        targets = torch.from_numpy(prompt[start + 1 : start + num_new + 1].astype(np.int64)).to(self._device)
        first = end + 1 - num_new
        num_top = self.sampling.num_prompt_logprobs(row)
        launched.num_parts.append(0)
        for offset in range(0, len(targets), SCORED_AT_ONCE):
            chunk = targets[offset : offset + SCORED_AT_ONCE]
            logits = self.forward.logits(np.arange(first + offset, first + offset + len(chunk)))
            if self.ranks.rank == 0 and row not in launched.faults:
                try:
                    launched.scores.append((self.kernels.score(logits, chunk.unsqueeze(1), num_top), num_top))
                    launched.num_parts[-1] += 1
                except Exception as error:
                    launched.faults |= find_faulty(lambda _: None, [row], error)
