"""What the paper measured: its systems as knobs of the engine, and its models on its GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from octavo.config import EngineConfig
from octavo.evaluation.shapes import shape_folder
from octavo.evaluation.simulator.devices import Device, find_device
from octavo.evaluation.simulator.machine import simulated_executor
from octavo.execution.simulated import SimulatedExecutor

FASTER_TRANSFORMER, ORCA_MAX, ORCA_POW2, ORCA_ORACLE, PAGED = (
    "FasterTransformer",
    "Orca (Max)",
    "Orca (Pow2)",
    "Orca (Oracle)",
    "Octavo",
)
SYSTEMS: dict[str, dict[str, Any]] = {
    FASTER_TRANSFORMER: {"kv_allocation": "contiguous-max", "scheduling_policy": "static"},
    ORCA_MAX: {"kv_allocation": "contiguous-max"},
    ORCA_POW2: {"kv_allocation": "contiguous-pow2"},
    ORCA_ORACLE: {"kv_allocation": "contiguous-oracle"},
    PAGED: {"kv_allocation": "paged"},
}
"""The paper's systems (section 6.1), by the policies of one engine. The last stands where the paper has vLLM."""

LONGEST = 2048
"""Of the paper's models, in tokens."""
HOST_STEP_S, HOST_ROW_S = 6.5e-3, 0.28e-3
"""What the paper's implementation, Python around a step, took for each step, and for each sequence in it. They are the
two rates here that are not from a data sheet: with them, vLLM's two batches of figure 13 come out (30.42 at 2 requests
a second of ShareGPT, 132.44 at 30 of Alpaca: by Little's law 45 and 75 ms a token)."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A model on GPUs (paper, table 1)."""

    name: str
    shape: str
    gpu: str
    num_gpus: int
    parameter_gb: float
    kv_gib: float
    """What the paper calls GB here are GiB: with these its slots come out."""
    num_slots: int
    """Token slots of the KV memory."""


OPT_13B = Setup("OPT-13B", "opt-13b", "a100-40gb", 1, 26, 12, 15_700)
OPT_66B = Setup("OPT-66B", "opt-66b", "a100-40gb", 4, 132, 21, 9_700)
OPT_175B = Setup("OPT-175B", "opt-175b", "a100-80gb", 8, 346, 264, 60_100)
LLAMA_13B = Setup("LLaMA-13B", "llama-13b", "a100-40gb", 1, 26, 12, 15_700)
"""Of the translations; it takes as much of a token and of the GPU as OPT-13B."""


def knobs_of(system: str, num_slots: int, longest: int = LONGEST) -> dict[str, Any]:
    """What makes an engine with so many token slots one of the paper's systems."""
    knobs = {"prefix_cache_scope": "off", "preemption_mode": "recompute", **SYSTEMS[system]}
    return {**knobs, "max_num_seqs": num_slots // longest} if system == FASTER_TRANSFORMER else knobs


def device_of(setup: Setup) -> Device:
    """The setup's GPU, with the paper's implementation around it."""
    return msgspec.structs.replace(find_device(setup.gpu), host_step_s=HOST_STEP_S, host_row_s=HOST_ROW_S)


def config_of(setup: Setup, folder: Path, **knobs: Any) -> EngineConfig:
    """An engine of a setup's model.

    Args:
        folder: that has the model's config.json.
    """
    return EngineConfig(
        model=str(folder), load_format="dummy", tensor_parallel_size=setup.num_gpus, cuda_graphs="off", **knobs
    )


@contextmanager
def prepared(setup: Setup, system: str, **knobs: Any) -> Iterator[tuple[EngineConfig, SimulatedExecutor]]:
    """The config of a system in a setup, and an executor for it, which has the paper's slots.

    Args:
        knobs: of the engine, where they are not the paper's.
    """
    with shape_folder(setup.shape) as folder:
        given = {"max_num_seqs": 1024, "steps_in_flight": 1, **knobs_of(system, setup.num_slots), **knobs}
        config = config_of(setup, folder, **given)
        executor = simulated_executor(config, device_of(setup))
        executor.capacity = replace(executor.capacity, num_blocks=setup.num_slots // config.block_size)
        yield config, executor
