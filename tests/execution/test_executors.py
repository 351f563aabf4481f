"""What every executor tells, whichever it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo.config import EngineConfig
from octavo.errors import EngineError
from octavo.execution.executor import Capacity, Executor
from octavo.execution.launch import executor_class
from octavo.execution.plan import NewRow, Plan, TableEdit
from octavo.execution.simulated import SimulatedExecutor, StepSeconds
from octavo.sampling_params import SamplingParams
from tiny_checkpoints import make_llama

PROMPT = [5, 17, 3, 80, 41]


@pytest.fixture(scope="module", params=["simulated", "local", "two ranks"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    if request.param == "simulated":
        capacity = Capacity(num_blocks=8, block_size=16, block_bytes=1, max_model_len=64, vocab_size=97)
        yield SimulatedExecutor(capacity, cost=lambda plan: StepSeconds(compute_s=0.5))
        return
    folder: Path = make_llama(tmp_path_factory.mktemp("tiny"))
    size = 1 if request.param == "local" else 2
    config = EngineConfig(model=str(folder), kv_cache_memory="1MiB", tensor_parallel_size=size)
    executor = executor_class(config)(config)
    yield executor
    executor.close()
    with pytest.raises(EngineError, match="closed"):
        executor.check()


def test_it_says_what_it_has_loaded_and_that_it_lives(executor: Executor) -> None:
    assert "" not in (executor.loaded.kernels, executor.loaded.dtype)
    assert executor.depth == 1
    assert all(descriptor > 0 for descriptor in executor.sockets)
    executor.check()


def test_it_tells_where_the_time_has_gone(executor: Executor) -> None:
    new = NewRow(0, 0, PROMPT, SamplingParams(temperature=0), seed=0, stop_token_ids=[])
    before = executor.times()
    plan = Plan(
        added=[new], tables=[TableEdit(0, [2])], rows=[0], starts=[0], num_new=[5], sampled_rows=[0], logits_from=[0]
    )
    executor.submit(plan).result()
    after = executor.times()
    assert after.parts_s["forward"] > before.parts_s["forward"] >= 0
    assert after.parts_s.keys() <= {"prepare", "move", "forward", "logits", "sample", "wait"}
    assert sum(after.operations_s.values()) <= after.parts_s["forward"]
