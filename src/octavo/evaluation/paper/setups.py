"""What the paper measured: its systems as knobs of the engine, its models on its GPUs, its lengths of requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from octavo.config import EngineConfig
from octavo.evaluation.shapes import shape_folder
from octavo.evaluation.simulator.devices import Device, find_device
from octavo.evaluation.simulator.machine import simulated_executor
from octavo.evaluation.simulator.traffic import Lengths, drawn
from octavo.evaluation.workloads import MEANS, SIGMAS
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
HOST_ROW_S = 0.3e-3
"""What the paper's implementation, Python around a step, took for each sequence in it. It is the one rate here that is
not from a data sheet: with it, vLLM's batches of figure 13 come out (30.42 at 2 requests a second of ShareGPT, 132.44
at 30 of Alpaca: by Little's law 45 and 75 ms a token)."""
NUM_DRAWN = 20_000
"""Lengths that their means are set by."""


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


SETUPS = {
    setup.name: setup
    for setup in (
        Setup("OPT-13B", "opt-13b", "a100-40gb", 1, 26, 12, 15_700),
        Setup("OPT-66B", "opt-66b", "a100-40gb", 4, 132, 21, 9_700),
        Setup("OPT-175B", "opt-175b", "a100-80gb", 8, 346, 264, 60_100),
    )
}


def device_of(setup: Setup) -> Device:
    """The setup's GPU, with the paper's implementation around it."""
    return msgspec.structs.replace(find_device(setup.gpu), host_row_s=HOST_ROW_S)


def config_of(setup: Setup, folder: Path, **knobs: Any) -> EngineConfig:
    """An engine of a setup's model.

    Args:
        folder: that has the model's config.json.
    """
    return EngineConfig(
        model=str(folder), load_format="dummy", tensor_parallel_size=setup.num_gpus, cuda_graphs="off", **knobs
    )


@contextmanager
def prepared(setup: Setup, system: str) -> Iterator[tuple[EngineConfig, SimulatedExecutor]]:
    """The config of a system in a setup, and an executor for it, which has the paper's slots."""
    with shape_folder(setup.shape) as folder:
        config = config_of(
            setup,
            folder,
            max_num_seqs=setup.num_slots // LONGEST if system == FASTER_TRANSFORMER else 1024,
            prefix_cache_scope="off",
            preemption_mode="recompute",
            steps_in_flight=1,
            **SYSTEMS[system],
        )
        executor = simulated_executor(config, device_of(setup))
        executor.capacity = replace(executor.capacity, num_blocks=setup.num_slots // config.block_size)
        yield config, executor


def pairs(dataset: str, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Prompt and output tokens as the paper's data set has them: log-normal, of its means once those that are longer
    than the model are left out. Prompts tell nothing of outputs: in a production trace the logarithms of both correlate
    by 0.09 (Azure LLM inference trace, conversations, 2023)."""
    return list(islice(drawn(*_lengths(dataset), LONGEST, seed), count))


@cache
def _lengths(dataset: str) -> tuple[Lengths, Lengths]:
    """Lengths whose means are the data set's after the longest pairs have gone."""
    wanted, means = MEANS[dataset], list(MEANS[dataset])
    for _ in range(8):
        pairs = islice(drawn(*_log_normal(means), LONGEST, seed=0), NUM_DRAWN)
        found = [sum(numbers) / NUM_DRAWN for numbers in zip(*pairs, strict=True)]
        means = [mean * own / mean_found for mean, own, mean_found in zip(means, wanted, found, strict=True)]
    return _log_normal(means)


def _log_normal(means: list[float]) -> tuple[Lengths, Lengths]:
    prompts, outputs = (Lengths.of_logarithms(mean, sigma) for mean, sigma in zip(means, SIGMAS, strict=True))
    return prompts, outputs
