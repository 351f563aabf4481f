"""The runner's rows follow plans, as the shadow of the scheduler's tests does."""

import random

import numpy as np
import torch

from octavo.engine.engine import Engine
from octavo.execution.device_queue import HostQueue
from octavo.execution.executor import PendingOutput
from octavo.execution.plan import ForkedRow, NewRow, Plan
from octavo.execution.row_tables import RowTables
from octavo.execution.step_buffers import StepBuffers
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from scheduling.checking import ShadowExecutor, capacity


class Mirror(ShadowExecutor):
    """Applies every plan to `RowTables` too, and compares what they hold with the shadow's own rows."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__(capacity(num_blocks, block_size=4, max_model_len=128, vocab_size=1000, max_drafts=3))
        self.tables = RowTables(max_model_len=128, block_size=4)
        self.num_released = 0

    def submit(self, plan: Plan) -> PendingOutput:
        self.tables.apply(plan)
        self.num_released += len(plan.released)
        step = super().submit(plan)
        if plan.sampled_rows:
            last = np.array([tokens[-1] for tokens in step.result().token_ids])
            num_accepted = np.array([len(tokens) - 1 for tokens in step.result().token_ids])
            self.tables.append(np.array(plan.sampled_rows), last, num_accepted)
        for row, shadow in self.shadows.items():
            assert self.tables.blocks[:, row, : self.tables.num_blocks[row]].tolist() == shadow.tables
            prints: list[int] = []
            for token in self.tables.all_token_ids(row).tolist():
                prints.append(hash((prints[-1] if prints else 0, token)))
            assert prints == shadow.prints
        return step


def batch_adapters(tables: RowTables, rows: list[int]) -> list[int] | None:
    """What a step that decodes some rows is told of their adapters."""
    plan = Plan(rows=rows, starts=[2] * len(rows), num_new=[1] * len(rows))
    buffers = StepBuffers(tables, None, HostQueue(), torch.device("cpu"), max_tokens=8, max_rows=8)
    adapters = buffers.stage(plan).batch.adapters
    return None if adapters is None else adapters.tolist()


def test_the_batch_tells_each_rows_adapter_where_any_row_has_one():
    def new(row: int, adapter: int) -> NewRow:
        return NewRow(row, 0, [1, 2, 3], SamplingParams(), 0, [], adapter=adapter)

    tables = RowTables(max_model_len=8, block_size=4)
    tables.apply(Plan(added=[new(0, 0), new(1, 0)]))
    assert batch_adapters(tables, [0, 1]) is None
    tables.apply(Plan(added=[new(2, 5)], forked=[ForkedRow(20, 2, 1)]))
    assert batch_adapters(tables, [20, 0, 2]) == [5, 0, 5]
    tables.apply(Plan(removed=[2], added=[new(20, 0)]))
    assert batch_adapters(tables, [0, 20]) is None


def test_rows_and_tables_follow_forks_copies_preemptions_and_reuse():
    r, mirror = random.Random(3), Mirror(num_blocks=40)
    engine = Engine(mirror, max_num_seqs=24, max_num_batched_tokens=48)
    for number in range(120):
        params = SamplingParams(n=r.choice((1, 2, 4)), max_tokens=r.randint(1, 20))
        prompt = [r.randrange(1000) for _ in range(r.randint(1, 40))]
        engine.add(EngineRequest(str(number), prompt, params, float(number), seed=number))
    while engine.has_unfinished:
        engine.step()
    assert mirror.num_copied > 10
    assert mirror.num_released > 5
    assert 100 < mirror.num_accepted < mirror.num_drafted - 100
