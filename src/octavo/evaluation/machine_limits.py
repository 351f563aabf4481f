"""What this machine can do at best: how fast it reads memory, and how fast it multiplies in each precision.

No kernel is faster than both its bytes and its operations allow: its limit (Williams et al., Roofline, 2009).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec
import torch

from octavo.evaluation.kernel_names import PRECISIONS
from octavo.evaluation.operation_models import CPU, activation_dtype, bind_products, tokens
from octavo.evaluation.timing import shortest_s
from octavo.execution.machine import free_memory_bytes
from octavo.kernels import Needs, select_kernels
from octavo.kernels.cache import CacheShape
from octavo.kernels.interface import Kernels
from octavo.layer_groups import one_group

READ_BYTES = 2 << 30
LARGE, SMALLER = 2048, 1024
"""Rows and columns of the library's products: float32, and others, which it may compute a hundred times slower."""
OWN_ROWS, OWN_SHAPE, OWN_COPIES = 256, (512, 1152), 4
"""Of Octavo's own products, all with one weight, which stays in the caches."""
MEASURED_S = 0.15
PROBE_READ_BYTES, PROBE_SIZE, PROBED_S = 256 << 20, 1024, 0.02
"""Of what `Drift` repeats."""


class Bound(msgspec.Struct, frozen=True):
    """The least time that some work can take, and what it waits for: `memory` or `products`."""

    seconds: float
    waits_for: str


class MachineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The best of several measurements each, all with the threads that kernels use."""

    num_threads: int
    read_gb_s: float
    """Summing float32 from an array far larger than the caches, in the kind of memory that the KV cache is in."""
    product_gop_s: dict[str, dict[str, float]]
    """For each precision what was measured, by whose product: `torch` (a large one, library code), `octavo` (one with
    weights that stay in the caches)."""

    def product_rate(self, precision: str) -> float:
        """Billions of operations a second that products in this precision could reach: in float32 what torch does, in
        others the most that was seen, float32 included, as narrower numbers can always be widened; in int4 as in
        int8."""
        measured = self.product_gop_s["int8" if precision == "int4" else precision]
        return max([*measured.values(), *self.product_gop_s["float32"].values()])

    def bound(self, num_bytes: float, operations: dict[str, float]) -> Bound:
        """The limit of work that reads so much memory and does so many operations in each precision."""
        reading_s = num_bytes / self.read_gb_s / 1e9
        computing_s = sum(number / self.product_rate(each) / 1e9 for each, number in operations.items())
        return Bound(reading_s, "memory") if reading_s >= computing_s else Bound(computing_s, "products")


class Drift:
    """How a machine's speed moves after its limits were measured: where it is shared, by a third in seconds."""

    def __init__(self, backend: str = "auto") -> None:
        """Begin right after `measure_limits`."""
        self._values = _memory(PROBE_READ_BYTES, backend)
        self._matrix = torch.ones(PROBE_SIZE, PROBE_SIZE)
        self._first = self._seconds()

    def limits_now(self, limits: MachineLimits) -> MachineLimits:
        """The limits as they would be measured now. Products of all precisions are taken to move as float32's do."""
        reading, multiplying = (first / now for first, now in zip(self._first, self._seconds(), strict=True))
        rates = {
            precision: {whose: rate * multiplying for whose, rate in measured.items()}
            for precision, measured in limits.product_gop_s.items()
        }
        return MachineLimits(num_threads=limits.num_threads, read_gb_s=limits.read_gb_s * reading, product_gop_s=rates)

    def _seconds(self) -> tuple[float, float]:
        multiply = partial(torch.mm, self._matrix, self._matrix)
        return shortest_s(self._values.sum, PROBED_S), shortest_s(multiply, PROBED_S)


NUM_MEASUREMENTS = 2 * len(PRECISIONS)


def measure_limits(backend: str = "auto", done: Callable[[], object] = lambda: None) -> MachineLimits:
    """Measure them, with torch's threads as they are set.

    Args:
        backend: as `--kernels`.
        done: called `NUM_MEASUREMENTS` times on the way.

    Raises:
        ConfigError: the backend cannot serve.
    """
    read_gb_s = _measure_read(backend)
    done()
    rates: dict[str, dict[str, float]] = {}
    for precision in PRECISIONS:
        rates[precision] = {"torch": _measure_library(precision)}
        done()
        if precision != "float32":
            rates[precision]["octavo"] = _measure_own(precision, backend)
            done()
    return MachineLimits(num_threads=torch.get_num_threads(), read_gb_s=read_gb_s, product_gop_s=rates)


def _measure_read(backend: str) -> float:
    values = _memory(min(READ_BYTES, free_memory_bytes() // 4), backend)
    return values.nbytes / shortest_s(values.sum, MEASURED_S) / 1e9


def _memory(num_bytes: int, backend: str) -> torch.Tensor:
    """Numbers in a KV cache's kind of memory, written, so that each page is there."""
    block = CacheShape(1, one_group(1), 16, 1, 64, torch.float32)
    shape = replace(block, num_blocks=num_bytes // block.block_bytes)
    memory = _kernels(torch.float32, backend).allocate_cache(shape, CPU)
    return memory.records.view(torch.float32).view(-1).fill_(1.0)


def _measure_library(precision: str) -> float:
    size = LARGE if precision == "float32" else SMALLER
    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        values = torch.randint(-127, 128, (size, size), dtype=torch.int8, generator=generator)
        seconds = shortest_s(lambda: torch._int_mm(values, values.T), MEASURED_S)
    else:
        values = torch.randn(size, size, generator=generator).to(getattr(torch, precision))
        seconds = shortest_s(lambda: torch.mm(values, values.T), MEASURED_S)
    return 2 * size**3 / seconds / 1e9


def _measure_own(precision: str, backend: str) -> float:
    num_outputs, num_inputs = OWN_SHAPE
    kernels = _kernels(activation_dtype(precision), backend)
    forward = bind_products(kernels, num_outputs, num_inputs, precision, copies=OWN_COPIES, shared=True)
    seconds = shortest_s(partial(forward.run, tokens(OWN_ROWS)), MEASURED_S)
    return OWN_COPIES * 2 * OWN_ROWS * num_outputs * num_inputs / seconds / 1e9


def _kernels(dtype: torch.dtype, backend: str) -> Kernels:
    return select_kernels(Needs(CPU, dtype, torch.float32), backend).kernels
