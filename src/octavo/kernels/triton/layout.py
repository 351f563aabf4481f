"""How Triton's kernels lay out a record, and in which dtypes they multiply what is in it."""

from math import prod

import torch
import triton
import triton.language as tl

from octavo.kernels.cache import CacheShape, KVCache

OPERANDS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
"""Dtypes of products."""


def vectors(cache: KVCache) -> torch.Tensor:
    """A cache's keys and values: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`.

    The keys of one head and block are one contiguous piece, and so are its values: attention reads nothing else, but
    for their scales.
    """
    shape = cache.shape
    own = cache.records[:, : _vector_bytes(shape)].view(shape.dtype)
    return own.view(shape.num_blocks, *_vector_sizes(shape))


def scales(cache: KVCache) -> torch.Tensor | None:
    """The float32 scales of an int8 cache, behind the vectors in each record: `[num_blocks, num_layers, 2,
    num_kv_heads, block_size]`. None where there are none."""
    shape = cache.shape
    if not shape.has_scales:
        return None
    own = cache.records[:, _vector_bytes(shape) :].view(torch.float32)
    return own.view(shape.num_blocks, *_vector_sizes(shape)[:-1])


def operand_dtype(cache: KVCache, dtype: torch.dtype) -> torch.dtype:
    """What keys and values are multiplied in: the cache's dtype, or where it is of 8 bits `dtype`, the activations'."""
    return dtype if cache.shape.dtype.itemsize == 1 else cache.shape.dtype


def in_kernels(operand: torch.dtype) -> tl.dtype:
    """The same for a kernel. Triton's interpreter has no arithmetic in bfloat16: there it is float32."""
    if operand == torch.bfloat16 and triton.knobs.runtime.interpret:
        return tl.float32
    return OPERANDS[operand]


def power_of_2(number: int) -> int:
    """The least power of two that is not below it: Triton's tiles have no other sizes."""
    return 1 << (number - 1).bit_length()


def _vector_sizes(shape: CacheShape) -> tuple[int, ...]:
    return (shape.num_layers, 2, shape.num_kv_heads, shape.block_size, shape.head_dim)


def _vector_bytes(shape: CacheShape) -> int:
    return prod(_vector_sizes(shape)) * shape.dtype.itemsize
