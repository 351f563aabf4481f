"""What a KV cache may take of the memory, and how errors tell of it."""

import math
from dataclasses import dataclass

from octavo.config import EngineConfig
from octavo.knobs import parse_size

MIB = 2**20
HOST_SHARE = "40%"
"""Of the free memory, for the cache of a model on the processor, where nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What one GPU's memory is taken for before a KV cache gets any, in bytes."""

    total: int
    others: int
    """By other processes, and by CUDA itself in this one."""
    weights: int = 0
    """By weights, tables and what libraries keep."""
    step: int = 0
    """By the largest step, beside the weights."""
    graphs: int = 0
    """By CUDA graphs."""

    def room(self, share: float) -> int:
        """What is left for a KV cache where Octavo may take this share of the memory. Below 0 where it is short."""
        return min(int(share * self.total), self.total - self.others) - self._own

    def share_for(self, num_bytes: int) -> float | None:
        """The least share, in whole hundredths, that leaves so much for a KV cache; None where none does."""
        needed = self._own + num_bytes
        return None if needed > self.total - self.others else math.ceil(100 * needed / self.total) / 100

    @property
    def _own(self) -> int:
        return self.weights + self.step + self.graphs

    def __str__(self) -> str:
        taken = {
            "weights": self.weights,
            "a step's work": self.step,
            "CUDA graphs": self.graphs,
            "other processes and CUDA": self.others,
        }
        told = ", ".join(f"{name} {num_bytes / MIB:,.0f} MiB" for name, num_bytes in taken.items() if num_bytes)
        return f"of {self.total / MIB:,.0f} MiB: {told or 'nothing is taken'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBudget:
    """What a KV cache may take on all ranks together."""

    wanted_bytes: int
    """What was asked for; it may be more than is free."""
    free_bytes: int
    asked: str
    """The flag that asked, with its value."""
    use: DeviceUse | None = None
    """Of a GPU. None on the processor."""
    num_ranks: int = 1
    is_share: bool = False
    """Whether the flag bounds all that Octavo takes of a GPU, and not the cache alone."""

    @property
    def told(self) -> str:
        """What was asked for, as an error's subject."""
        if not self.is_share:
            return self.asked
        return f"{self.asked} leaves {max(0, self.wanted_bytes) / MIB:,.0f} MiB for the KV cache ({self.use}), which"

    @property
    def free_told(self) -> str:
        """What is free, and why no more is."""
        return f"{self.free_bytes / MIB:,.0f} MiB are free" + (f" ({self.use})" if self.use else "")

    def remedy(self, num_bytes: int, size: str = "it") -> str:
        """What to do so that the cache has so many bytes on all ranks together.

        Args:
            size: how the sentence calls a size that was asked for.
        """
        if self.use is None or not self.is_share:
            return f"raise {size}"
        share = self.use.share_for(-(-num_bytes // self.num_ranks))
        if share is None:
            return "lower --max-num-batched-tokens or --max-num-seqs"
        return f"raise --gpu-memory-utilization to {share:g}"


def host_budget(config: EngineConfig, free_bytes: int) -> CacheBudget:
    """On the processor.

    Args:
        free_bytes: after loading.
    """
    size = HOST_SHARE if config.kv_cache_memory is None else config.kv_cache_memory
    wanted_bytes = parse_size(size, free_bytes, "--kv-cache-memory")
    return CacheBudget(wanted_bytes=wanted_bytes, free_bytes=free_bytes, asked=f"--kv-cache-memory {size}")


def device_budget(config: EngineConfig, use: DeviceUse, room_of_a_rank: int) -> CacheBudget:
    """On GPUs, one a rank.

    Args:
        use: of this rank's.
        room_of_a_rank: the least that any rank has for its part of the cache, within `device_share`.
    """
    num_ranks = config.tensor_parallel_size
    free_bytes = max(0, room_of_a_rank) * num_ranks
    if config.kv_cache_memory is None:
        asked = f"--gpu-memory-utilization {config.gpu_memory_utilization:g}"
        wanted_bytes = free_bytes
    else:
        asked = f"--kv-cache-memory {config.kv_cache_memory}"
        wanted_bytes = parse_size(config.kv_cache_memory, free_bytes, "--kv-cache-memory")
    return CacheBudget(
        wanted_bytes=wanted_bytes,
        free_bytes=free_bytes,
        asked=asked,
        use=use,
        num_ranks=num_ranks,
        is_share=config.kv_cache_memory is None,
    )


def device_share(config: EngineConfig) -> float:
    """The share of a GPU's memory that Octavo may take in all; a size that is asked for goes before it."""
    return config.gpu_memory_utilization if config.kv_cache_memory is None else 1.0
