"""The threads that run a step together: their number changes no bit, and they sleep while there is no step."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from octavo.kernels.cpu import CpuKernels
from ragged_model import RaggedModel
from tiny_checkpoints import make_llama

NUM_STEPS = 500
ROWS = {"a": 1, "b": 30, "c": 4}
"""The tokens that each row of a step computes."""


def model_with(num_threads: int, folder: Path) -> RaggedModel:
    return RaggedModel(folder, kernels=CpuKernels(num_threads=num_threads), quantization="int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny"))


def test_thousands_of_steps_have_the_same_bits_with_any_number_of_threads(folder: Path) -> None:
    """With more threads than cores the system takes cores away in the middle of phases, and gives them back late."""
    wanted: dict[int, torch.Tensor] = {}
    for num_threads in (1, 2, 4, 8):
        model = model_with(num_threads, folder)
        batches = [
            model._batch({f"{row} of {count}": [5] * num for row, num in list(ROWS.items())[:count]})
            for count in (1, 2, 3)
        ]
        for step in range(NUM_STEPS):
            batch = batches[step % len(batches)]
            model.forward.run(batch)
            logits = model.forward.logits(np.arange(len(batch.token_ids)))
            assert torch.equal(logits, wanted.setdefault(step % len(batches), logits.clone()))


def bound_threads() -> set[int]:
    """Those of this process that may not run on all cores that the calling one may run on."""
    threads = {int(thread.name) for thread in Path("/proc/self/task").iterdir()}
    return {thread for thread in threads if os.sched_getaffinity(thread) != os.sched_getaffinity(0)}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux")
def test_steps_beside_a_busy_process_have_the_same_bits_and_bind_no_thread_to_a_core(folder: Path) -> None:
    model, allowed = model_with(2, folder), os.sched_getaffinity(0)
    batch = model._batch({"a": [5] * 40})
    model.forward.run(batch)
    wanted = model.forward.logits(np.arange(40)).clone()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        os.sched_setaffinity(neighbour.pid, {min(os.sched_getaffinity(0))})
        for _ in range(NUM_STEPS):
            model.forward.run(batch)
            assert torch.equal(model.forward.logits(np.arange(40)), wanted)
        neighbour.kill()
    for _ in range(100):  # one may be on its way to another core
        if not bound_threads():
            break
        time.sleep(0.05)
    assert not bound_threads()
    assert os.sched_getaffinity(0) == allowed


def test_threads_take_no_processor_time_between_steps(folder: Path) -> None:
    model = model_with(4, folder)
    model.step({"a": [1, 2, 3]})
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.15, "one that spins would take all of the 0.3 s"


def test_steps_of_several_callers_take_turns(folder: Path) -> None:
    kernels = CpuKernels(num_threads=2)
    models = [RaggedModel(folder, kernels=kernels) for _ in range(3)]
    wanted = models[0].step({"a": [1, 2, 3]})["a"]

    def work(model: RaggedModel) -> None:
        rows = [f"row {number}" for number in range(40)]
        results.extend(torch.equal(model.step({row: [1, 2, 3]})[row], wanted) for row in rows)

    results: list[bool] = []
    callers = [threading.Thread(target=work, args=(model,)) for model in models[1:]]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 80


def test_a_process_ends_while_its_threads_sleep() -> None:
    code = (
        "import torch, octavo.kernels._cpu as c\n"
        "threads = c.ThreadPool(4)\n"
        "values = torch.ones(640, 64)\n"
        "c.Weight(threads, 0, 640, 64, values.data_ptr())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, timeout=60).returncode == 0
