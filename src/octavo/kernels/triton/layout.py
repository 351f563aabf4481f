"""How Triton's kernels lay out a record."""

import torch

from octavo.errors import ConfigError
from octavo.kernels.cache import KVCache

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Of caches that these kernels read and write."""


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
