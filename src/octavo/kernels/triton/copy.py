"""Copies of whole blocks: within the device's memory, and between it and pinned memory of the host.

A GPU reads and writes pinned memory by the address that the host knows it by. So a step's moves are one launch each
way, whatever their number, and nothing lies between the records.
"""

import torch
import triton
import triton.language as tl

from octavo.kernels.cache import KVCache

PIECE = 4096
"""Words of 4 bytes that a program copies at a time."""
HOST_PROGRAMS = 32
"""Programs of a copy to or from the host. They have 512 KiB on their way at once: several times what a bus of 64 GB/s
and 2 µs holds. The multiprocessors that are left go on with the step."""


def copy_blocks(source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor) -> None:
    """As `Kernels.copy_blocks`, in one launch and without waiting for it. Records on the host are pinned; ids may lie
    on the host, pinned or not, or on the device."""
    is_host = source.records.device.type == "cpu", destination.records.device.type == "cpu"
    device = destination.records.device if is_host[0] else source.records.device
    launch_copy(
        destination.records,
        source.records,
        _on(device, destination_ids),
        _on(device, source_ids),
        HOST_PROGRAMS if any(is_host) else None,
    )


def launch_copy(
    destination: torch.Tensor,
    source: torch.Tensor,
    destination_ids: torch.Tensor,
    source_ids: torch.Tensor,
    num_programs: int | None,
) -> None:
    """Copy rows of one tensor of bytes to rows of another.

    Args:
        destination, source: `[n, block_bytes]` uint8.
        num_programs: share out the work, at most; None is one for each piece.
    """
    words = source.shape[1] // 4
    pieces_a_record = triton.cdiv(words, PIECE)
    num_pieces = len(source_ids) * pieces_a_record
    _copy[(min(num_pieces, num_programs or num_pieces),)](
        destination.view(torch.int32),
        source.view(torch.int32),
        destination_ids,
        source_ids,
        words,
        pieces_a_record,
        num_pieces,
        PIECE=PIECE,
        num_warps=8,
    )


def _on(device: torch.device, ids: torch.Tensor) -> torch.Tensor:
    """Ids where a kernel reads them, in the order of the device's work."""
    if ids.device == device:
        return ids
    return ids.pin_memory().to(device, non_blocking=True)


# Numbers and places of ids differ from step to step: none is to have the kernel compiled anew.
@triton.jit(do_not_specialize=["num_pieces"], do_not_specialize_on_alignment=["destination_ids", "source_ids"])
def _copy(destination, source, destination_ids, source_ids, words, pieces_a_record, num_pieces, PIECE: tl.constexpr):
    """Pieces of records, a program every so many of them."""
    for piece in range(tl.program_id(0), num_pieces, tl.num_programs(0)):
        copy = piece // pieces_a_record
        places = (piece % pieces_a_record) * PIECE + tl.arange(0, PIECE)
        is_word = places < words
        numbers = tl.load(source + tl.load(source_ids + copy) * words + places, mask=is_word)
        tl.store(destination + tl.load(destination_ids + copy) * words + places, numbers, mask=is_word)
