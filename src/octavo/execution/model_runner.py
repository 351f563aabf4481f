"""Turns a plan into tensors, runs the model on them and samples. Nothing here knows requests or decides anything."""

import numpy as np
import torch

from octavo.execution.plan import Plan, StepOutput
from octavo.execution.row_tables import IntArray, RowTables
from octavo.kernels.interface import Kernels, KVCache, Model, RaggedBatch
from octavo.kernels.sampling.interface import NO_TOKEN, Sampled
from octavo.layers.parallel import TensorParallel
from octavo.outputs import TokenLogprobs
from octavo.sampling.table import SamplingTable
from octavo.sampling.told import row_candidates, row_logprobs, told_logprobs
from octavo.stopwatch import Stopwatch

SCORED_AT_ONCE = 256
"""Prompt positions whose logits are held at a time."""


class ModelRunner:
    """One model, its KV cache and the rows it is working on."""

    def __init__(
        self,
        model: Model,
        kernels: Kernels,
        cache: KVCache,
        max_model_len: int,
        swap_space: KVCache | None = None,
        ranks: TensorParallel | None = None,
    ) -> None:
        """`ranks` are the runners that hold the model together. All follow the same plans; rank 0 has the logits, so it
        samples, and tells the others."""
        self.forward = kernels.bind(model, cache)
        self.kernels = kernels
        self.cache = cache
        self.swap_space = swap_space
        """Records of the same shape as the cache's, for the blocks of preempted requests."""
        self.ranks = ranks or TensorParallel()
        self.rows = RowTables(max_model_len, cache.shape.block_size, cache.shape.num_groups)
        self.sampling = SamplingTable()
        self.watch = Stopwatch("prepare", "move", "forward", "logits", "sample")

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepOutput:
        """One step: the plan's changes, its swaps and copies, then the KV writes and attention of its tokens, then
        sampling."""
        self.watch.start()
        before_s = sum(self.watch.seconds.values())
        self.follow(plan)
        self.watch.lap("prepare")
        self._swap(plan)
        move_s = self.watch.lap("move")
        output = self._compute(plan)
        self.watch.lap("sample")
        output.move_s = move_s
        output.compute_s = sum(self.watch.seconds.values()) - before_s - move_s
        return output

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

    def _compute(self, plan: Plan) -> StepOutput:
        self._copy(self.cache, self.cache, plan.copies)
        if not plan.rows:
            return StepOutput([])
        batch = self.prepare(plan)
        self.watch.lap("prepare")
        self.forward.run(batch)
        self.watch.lap("forward")
        ends = np.cumsum(plan.num_new) - 1
        prompt_logprobs = [self._score(plan, index, int(ends[index])) for index in plan.scored]
        if not plan.sampled_rows:
            return StepOutput([], [], prompt_logprobs)
        return self.sample(plan, ends, prompt_logprobs)

    @property
    def _device(self) -> torch.device:
        return self.cache.records.device

    def follow(self, plan: Plan) -> None:
        """Apply the plan to the rows and their sampling, computing nothing."""
        self.rows.apply(plan)
        for row in plan.removed:
            self.sampling.clear_row(row)
        for new in plan.added:
            self.sampling.set_row(
                new.row,
                new.params,
                seed=new.seed,
                sequence_index=new.index,
                stop_token_ids=new.stop_token_ids,
                num_candidates=new.num_candidates,
            )
        for fork in plan.forked:
            self.sampling.copy_row(fork.parent, fork.row, fork.index)

    def prepare(self, plan: Plan) -> RaggedBatch:
        """The step's tokens as one flat list, with where each row's KV lives."""
        table = self.rows
        rows, starts, num_new = (np.array(column, np.int64) for column in (plan.rows, plan.starts, plan.num_new))
        query_starts = np.concatenate(([0], np.cumsum(num_new)))
        row_of_token = np.repeat(rows, num_new)
        positions = np.arange(query_starts[-1]) + np.repeat(starts - query_starts[:-1], num_new)
        blocks = table.blocks[:, row_of_token, positions // table.block_size].astype(np.int64)
        slots = blocks * table.block_size + positions % table.block_size
        return RaggedBatch(
            token_ids=self._tensor(table.tokens[row_of_token, positions]),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            query_starts=self._tensor(query_starts),
            context_lens=self._tensor(starts + num_new),
            block_tables=self._tensor(table.blocks[:, rows, : table.num_blocks[rows].max()]),
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64, copy=False)).to(self._device, non_blocking=True)

    def sample(self, plan: Plan, ends: IntArray, prompt_logprobs: list[list[TokenLogprobs]]) -> StepOutput:
        """A token for each of the plan's sampled rows, appended to it, or candidates for a beam; `ends` are the flat
        indices of the rows' last tokens."""
        sources = list(dict.fromkeys(plan.logits_from))
        logits = self.forward.logits(ends[sources])
        if len(sources) < len(plan.logits_from):
            place = {source: index for index, source in enumerate(sources)}
            logits = logits[[place[source] for source in plan.logits_from]]
        self.watch.lap("logits")
        rows: IntArray = np.array(plan.sampled_rows, np.int64)
        num_generated = self.rows.num_tokens[rows] - self.rows.num_prompt[rows]
        batch = self.sampling.batch(rows, num_generated, self.rows.token_ids, plan.masks)
        sampled = self.kernels.sample(logits, batch) if self.ranks.rank == 0 else Sampled(self._tensor(rows.copy()))
        token_ids = self.ranks.from_first(sampled.token_ids).cpu().numpy()
        drawn = token_ids != NO_TOKEN
        self.rows.append(rows[drawn], token_ids[drawn])
        return StepOutput(
            [[token] if token != NO_TOKEN else [] for token in token_ids.tolist()],
            row_logprobs(sampled.scores, batch),
            prompt_logprobs,
            row_candidates(sampled.candidates, batch),
        )

    def _score(self, plan: Plan, index: int, end: int) -> list[TokenLogprobs]:
        """Log-probabilities of the prompt tokens that follow those computed now for `plan.rows[index]`."""
        row, start = plan.rows[index], plan.starts[index]
        prompt, _ = self.rows.token_ids(row)
        targets = self._tensor(prompt[start + 1 : start + plan.num_new[index] + 1])
        first = end + 1 - plan.num_new[index]
        num_top = self.sampling.num_prompt_logprobs(row)
        scores: list[TokenLogprobs] = []
        for offset in range(0, len(targets), SCORED_AT_ONCE):
            chunk = targets[offset : offset + SCORED_AT_ONCE]
            logits = self.forward.logits(np.arange(first + offset, first + offset + len(chunk)))
            if self.ranks.rank == 0:
                told = told_logprobs(self.kernels.score(logits, chunk.unsqueeze(1), num_top), [num_top] * len(chunk))
                scores += [own for (own,) in told]
        return scores
