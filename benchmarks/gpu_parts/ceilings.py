"""What the device can do: copies, reads in a row and scattered, products."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from gpu_parts.bench import Bench
from gpu_parts.matrix_rate import matrix_rate, matrix_rate_apart

LEAST_PIECE = 1024
"""Words of 4 bytes."""


@triton.jit
def _read_piece(result, memory, places, WORDS: tl.constexpr, PIECE: tl.constexpr):  # noqa: N803
    """Read one piece and write one number for it."""
    place = memory + tl.load(places + tl.program_id(0)) * PIECE
    total = tl.zeros([WORDS], tl.int32)
    for first in tl.static_range(0, PIECE, WORDS):
        total = tl.maximum(total, tl.load(place + first + tl.arange(0, WORDS)))
    tl.store(result + tl.program_id(0), tl.max(total, 0))


def read_rate(bench: Bench, memory: torch.Tensor, places: torch.Tensor, words: int) -> float:
    """Bytes a second of reading pieces of so many words of `memory`, which are numbered."""
    result = torch.empty(len(places), dtype=torch.int32, device=bench.device)
    arguments = {"WORDS": LEAST_PIECE, "PIECE": words, "num_warps": 4}
    read = partial(_read_piece[(len(places),)], result, memory, places, **arguments)
    return 4 * words * len(places) / bench.seconds([read], repeats=10)


def run(bench: Bench) -> Iterator[tuple[str, float]]:
    """Copies of some GiB, by the runtime and by a kernel of torch: the faster one is what shares are of. Reading alone.
    Products of 16 bit matrices: the faster of cuBLAS as Octavo sets it, and as it is by itself."""
    num_words = bench.sizes.copied_bytes // 4
    source = torch.randint(2**31, (num_words,), dtype=torch.int32, device=bench.device)
    target = torch.empty_like(source)
    by_runtime = bench.seconds([lambda: target.copy_(source)])
    by_kernel = bench.seconds([lambda: torch.add(source, 1, out=target)])
    yield "copy_gb_s", 2 * source.nbytes / min(by_runtime, by_kernel) / 1e9
    yield "copy_by_runtime_gb_s", 2 * source.nbytes / by_runtime / 1e9
    words = min(4096, num_words)
    yield "read_gb_s", read_rate(bench, source, torch.arange(num_words // words, device=bench.device), words) / 1e9
    matrices = (bench.device.type, bench.sizes.dtype, bench.sizes.matrix_size)
    as_octavo = matrix_rate(*matrices)
    yield "matrix_as_octavo_sets_cublas_tflop_s", as_octavo / 1e12
    yield "matrix_tflop_s", max(as_octavo, matrix_rate_apart(*matrices)) / 1e12


def scattered(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Reads of pieces that lie in a row, and of pieces at random places of the whole pool."""
    memory = bench.cache.records.view(torch.int32).flatten()
    for kib in bench.sizes.scattered_kib:
        words = kib * 256
        num_read = min(bench.sizes.copied_bytes // (8 * words), len(memory) // words)
        in_a_row = torch.arange(num_read, device=bench.device)
        at_random = torch.randperm(len(memory) // words, device=bench.device)[:num_read]
        yield (
            f"{kib} KiB",
            {
                "in_a_row_gb_s": read_rate(bench, memory, in_a_row, words) / 1e9,
                "scattered_gb_s": read_rate(bench, memory, at_random, words) / 1e9,
            },
        )
