"""Copies of whole blocks within the device's memory."""

import torch
import triton
import triton.language as tl

from octavo.kernels.cache import KVCache

PIECE = 4096
"""Words of 4 bytes that one program copies."""


def copy_blocks(source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor) -> None:
    """As `Kernels.copy_blocks`, between caches on one device."""
    words = source.shape.block_bytes // 4
    _copy[(len(source_ids), triton.cdiv(words, PIECE))](
        destination.records.view(torch.int32),
        source.records.view(torch.int32),
        destination_ids,
        source_ids,
        words,
        PIECE=PIECE,
        num_warps=8,
    )


@triton.jit(do_not_specialize=["destination_ids", "source_ids"])
def _copy(destination, source, destination_ids, source_ids, words, PIECE: tl.constexpr):
    """A piece of one record. The grid is (copies, pieces)."""
    copy = tl.program_id(0)
    places = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    is_word = places < words
    numbers = tl.load(source + tl.load(source_ids + copy) * words + places, mask=is_word)
    tl.store(destination + tl.load(destination_ids + copy) * words + places, numbers, mask=is_word)
