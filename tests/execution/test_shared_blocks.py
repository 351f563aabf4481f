"""What neighbouring rows of a step share is found as their block tables change."""

import random

import numpy as np
import pytest

from octavo import BeamSearchParams, SamplingParams
from octavo.engine.engine import Engine
from octavo.execution import shared_blocks
from octavo.execution.executor import PendingOutput
from octavo.execution.plan import NewRow, Plan, TableEdit
from octavo.execution.row_tables import RowTables
from octavo.execution.shared_blocks import SharedBlocks
from octavo.scheduling import EngineRequest
from scheduling.checking import ShadowExecutor, capacity

BLOCK_SIZE = 4


class Compared(ShadowExecutor):
    """Compares what is told of each plan's rows with their whole tables, token by token."""

    def __init__(self) -> None:
        super().__init__(capacity(60, block_size=BLOCK_SIZE, max_model_len=128, vocab_size=1000, max_drafts=3))
        self.tables = RowTables(max_model_len=128, block_size=BLOCK_SIZE)
        self.shared = SharedBlocks(self.tables, [0])
        self.num_shared = 0
        self.num_steps = 0

    def submit(self, plan: Plan) -> PendingOutput:
        self.tables.apply(plan)
        if plan.rows:
            told = self.shared.tokens(*(np.array(each) for each in (plan.rows, plan.starts, plan.num_new)))
            expected = [0] + [self._shared(plan, number) for number in range(1, len(plan.rows))]
            assert told.tolist() == expected
            self.num_shared += sum(expected)
            self.num_steps += any(expected)
        return super().submit(plan)

    def _shared(self, plan: Plan, number: int) -> int:
        """Of one row of a plan with the row before it."""
        pair = slice(number - 1, number + 1)
        if plan.num_new[pair] != [1, 1]:
            return 0
        before, own = (self.tables.blocks[0, row].tolist() for row in plan.rows[pair])
        length = 0
        while length < min(plan.starts[pair]) and own[length // BLOCK_SIZE] == before[length // BLOCK_SIZE]:
            length += 1
        return length


def test_what_is_told_follows_forks_beams_found_prefixes_drafts_and_preemptions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_blocks, "CONTEXT_CHUNK", 1)
    r, executor = random.Random(5), Compared()
    engine = Engine(executor, max_num_seqs=24, max_num_batched_tokens=48)
    system_prompt = [r.randrange(1000) for _ in range(17)]
    for number in range(120):
        length = r.randint(1, 20)
        params = SamplingParams(n=r.choice((1, 2, 4)), max_tokens=length)
        if number % 5 == 0:
            params = BeamSearchParams(beam_width=3, max_tokens=length).sampling_params()
        prompt = [r.randrange(1000) for _ in range(r.randint(1, 20))]
        engine.add(
            EngineRequest(str(number), system_prompt * (number % 2) + prompt, params, float(number), seed=number)
        )
    while engine.has_unfinished:
        engine.step()
    assert executor.num_steps > 50
    assert executor.num_shared > 10 * executor.num_steps


def new(row: int) -> NewRow:
    return NewRow(row, 0, [0] * 9, SamplingParams(), 0, [])


def told(shared: SharedBlocks, rows: list[int], starts: list[int], num_new: list[int]) -> list[int]:
    return list(shared.tokens(np.array(rows), np.array(starts), np.array(num_new)))


def test_only_whole_chunks_behind_one_new_token_count() -> None:
    tables = RowTables(max_model_len=1024, block_size=128)
    edits = [TableEdit(row, [1, 2, 3, 4, 5 + row]) for row in range(3)]
    tables.apply(Plan(added=[new(row) for row in range(3)], tables=edits))
    shared = SharedBlocks(tables, [0])
    assert told(shared, [0, 1, 2], [515, 512, 511], [1, 1, 1]) == [0, 512, 256]
    assert told(shared, [0, 1, 2], [515, 512, 512], [1, 2, 1]) == [0, 0, 0]


def test_layer_groups_share_what_all_of_them_share() -> None:
    tables = RowTables(max_model_len=1024, block_size=256, num_groups=3)
    edits = [TableEdit(0, [1, 2, 11, 12, 21, 22]), TableEdit(1, [1, 2, 11, 13, 23, 24])]
    tables.apply(Plan(added=[new(0), new(1)], tables=edits))
    for groups, length in (([0], 512), ([0, 1], 256), ([0, 2], 0), ([], 0)):
        assert told(SharedBlocks(tables, groups), [0, 1], [512, 512], [1, 1]) == [0, length]
