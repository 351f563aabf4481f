"""How Triton's kernels lay out a record, and the numbers that a launch needs of it."""

from dataclasses import dataclass

import torch

from octavo.errors import ConfigError
from octavo.kernels.cache import KVCache

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Of caches that these kernels read and write."""


@dataclass(frozen=True, slots=True)
class BatchExtent:
    """What a launch must know of a ragged batch on the host. It comes from the plan: no launch waits for the device."""

    longest_context: int
    """The largest of `RaggedBatch.context_lens`, or any number above it."""
    most_new: int
    """The most new tokens of one row, or any number above it."""
    fewest_new: int = 1
    """The fewest new tokens of one row, or any number below it."""


def vectors(cache: KVCache) -> torch.Tensor:
    """A cache's keys and values: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`.

    The keys of one head and block are one contiguous piece, and so are its values: attention reads nothing else.

    Raises:
        ConfigError: the cache is not of 16 or 32 bits a number.
    """
    shape = cache.shape
    if shape.dtype not in DTYPES:
        raise ConfigError(f"Triton kernels have no KV cache of {shape.dtype}: --kv-cache-dtype bfloat16 or float16")
    dimensions = (shape.num_layers, 2, shape.num_kv_heads, shape.block_size, shape.head_dim)
    return cache.records.view(shape.dtype).view(shape.num_blocks, *dimensions)


def power_of_2(number: int) -> int:
    """The least power of two that is not below it: Triton's tiles have no other sizes."""
    return 1 << (number - 1).bit_length()
