"""The memory that a model and its KV cache are put into: what is free before, what loading leaves, and what the cache
may take of that."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch

from octavo.config import EngineConfig
from octavo.execution.budgets import CacheBudget, DeviceUse, device_budget, device_share, host_budget
from octavo.execution.machine import free_memory_bytes
from octavo.execution.profiling import CudaMeter, MemoryMeter, measure_step, use_before_loading
from octavo.kernels.cache import CacheShape
from octavo.layers.parallel import TensorParallel

logger = logging.getLogger(__name__)


class ModelMemory(Protocol):
    """Where the ranks of a model have their parts of it. All ranks call the same methods in the same order, and are
    told the same numbers: bytes on all of them together."""

    @property
    def use(self) -> DeviceUse | None:
        """What is taken of this rank's device so far. None on the processor."""
        ...

    def for_weights(self) -> int:
        """What may be taken, before anything is loaded."""
        ...

    def most_for_cache(self) -> CacheBudget:
        """What the cache might take, before anything is loaded: where this is too little, nothing need be."""
        ...

    def for_cache(self, run_largest: Callable[[], None], graph_bytes: int, mapped_bytes: int) -> CacheBudget:
        """What the cache may take once the weights are loaded.

        Args:
            run_largest: runs the largest steps, where memory for them has to be left.
            graph_bytes: what CUDA graphs will take.
            mapped_bytes: of this rank's weights in mapped files, which the system counts as free.

        Raises:
            ConfigError: the largest steps do not fit.
        """
        ...

    def for_swap_space(self, cache: CacheShape) -> int:
        """Of the host's memory, what is free beside a rank's part of the cache that is about to be allocated."""
        ...


class HostMemory:
    """The machine's own, of which all ranks take."""

    use = None

    def __init__(self, config: EngineConfig, ranks: TensorParallel) -> None:
        self._config = config
        self._ranks = ranks
        self._free_bytes = 0
        if config.gpu_memory_utilization != EngineConfig().gpu_memory_utilization:
            logger.warning(
                "--gpu-memory-utilization %g bounds nothing: the model runs on the processor, and its KV cache takes "
                "what --kv-cache-memory says",
                config.gpu_memory_utilization,
            )

    def for_weights(self) -> int:
        return self._ranks.smallest(free_memory_bytes)

    def most_for_cache(self) -> CacheBudget:
        return host_budget(self._config, self._ranks.smallest(free_memory_bytes))

    def for_cache(self, run_largest: Callable[[], None], graph_bytes: int, mapped_bytes: int) -> CacheBudget:
        """The share or the size that is asked for; steps take what it leaves."""
        mapped_bytes *= self._ranks.size
        self._free_bytes = self._ranks.smallest(lambda: max(0, free_memory_bytes() - mapped_bytes))
        return host_budget(self._config, self._free_bytes)

    def for_swap_space(self, cache: CacheShape) -> int:
        """A cache's pages are not in use before they are written, so that they still count as free."""
        return self._free_bytes - cache.num_bytes * self._ranks.size


class DeviceMemory:
    """One GPU a rank.

    Args:
        meter: of this rank's.
    """

    def __init__(self, config: EngineConfig, ranks: TensorParallel, meter: MemoryMeter) -> None:
        self._config = config
        self._ranks = ranks
        self._meter = meter
        self.use = use_before_loading(meter)

    def for_weights(self) -> int:
        return max(0, self._room_of_a_rank()) * self._ranks.size

    def most_for_cache(self) -> CacheBudget:
        return device_budget(self._config, self.use, self._room_of_a_rank())

    def for_cache(self, run_largest: Callable[[], None], graph_bytes: int, mapped_bytes: int) -> CacheBudget:
        """What the share leaves beside weights, graphs and the largest step."""
        weights = max(0, self.use.total - self.use.others - self._meter.free_bytes())
        self.use = measure_step(
            self._meter, run_largest, self._config, replace(self.use, weights=weights, graphs=graph_bytes)
        )
        budget = device_budget(self._config, self.use, self._room_of_a_rank())
        self._meter.free_bytes()
        logger.info("%s leaves %s", budget.asked, budget.free_told)
        return budget

    def for_swap_space(self, cache: CacheShape) -> int:
        return self._ranks.smallest(free_memory_bytes)

    def _room_of_a_rank(self) -> int:
        return self._ranks.smallest(lambda: self.use.room(device_share(self._config)))


def memory_for(config: EngineConfig, ranks: TensorParallel, device: torch.device) -> ModelMemory:
    """Where a model on this device is put. It is to be made before anything is loaded."""
    if device.type == "cpu":
        return HostMemory(config, ranks)
    return DeviceMemory(config, ranks, CudaMeter(device))
