"""What is saved by sharing: the ledger and the tree of tokens give one figure; both ways of beam search one result."""

import pytest

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation import beams, sharing
from octavo.evaluation.decoding import Decoding
from octavo.evaluation.workloads import Work
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import ForkedRow, NewRow, Plan, TableEdit
from octavo.sampling_params import SamplingParams
from tiny_checkpoints import make_llama

WORK = [Work([(7 * number + place) % 97 for place in range(3 + 5 * number)], 20) for number in range(6)]


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    folder = make_llama(tmp_path_factory.mktemp("tiny"))
    yield (executor := LocalExecutor(EngineConfig(model=str(folder), kv_cache_memory="2MiB", block_size=4)))
    executor.close()


@pytest.mark.parametrize("method", ["parallel", "beam"])
@pytest.mark.parametrize("max_num_seqs", [8, 64])
def test_the_ledgers_savings_are_those_counted_from_the_tokens(executor, method, max_num_seqs):
    told: list[int] = []
    case = sharing.measure(
        executor,
        EngineConfig(max_num_seqs=max_num_seqs, max_num_batched_tokens=64),
        WORK,
        kind="alpaca",
        decoding=Decoding(method, 4),
        produced=told.append,
    )
    assert case.ledger == pytest.approx(case.offline, abs=0.05)
    assert 5 < case.ledger < 75
    assert case.paper == {"parallel": 8.5, "beam": 53.1}[method]
    assert sum(told) == 6 * 4 * 20


def test_rows_share_the_blocks_whose_last_tokens_they_have_in_common():
    trees = sharing.TokenTrees(block_size=4)
    trees.follow(
        Plan(
            added=[NewRow(0, 0, list(range(6)), SamplingParams(), 0, [])],
            forked=[ForkedRow(1, 0, 1)],
            tables=[TableEdit(0, [0, 1]), TableEdit(1, [], parent=0, num_shared=2)],
            rows=[0],
            starts=[0],
            num_new=[6],
        )
    )
    assert trees.saving() == 0.5, "two blocks in place of four"
    for row in (0, 1):
        trees.extend(row, 1)
    trees.follow(Plan(rows=[0, 1], starts=[6, 6], num_new=[1, 1]))
    assert trees.saving() == 0.25, "each writes to a copy of the second, though the tokens may be the same"
    trees.follow(Plan(removed=[1]))
    assert trees.saving() == 0


def test_beams_sent_anew_at_every_step_find_the_same_hypotheses(executor):
    engine = Engine(executor, max_num_seqs=64, max_num_batched_tokens=256)
    steps: list[int] = []
    figures = beams.measure(engine, [work.ids for work in WORK], 3, 10, lambda: steps.append(1))
    assert figures.prompts_with_equal_hypotheses == len(WORK)
    assert len(steps) == 10
    assert figures.prompt_tokens == sum(len(work.ids) for work in WORK)
