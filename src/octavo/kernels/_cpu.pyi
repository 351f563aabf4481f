"""What csrc/module.cpp offers. Addresses are those of contiguous memory that outlives the object it is given to."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

def instruction_set(name: str = "auto") -> str: ...
def checksum(threads: ThreadPool, bytes: Bytes) -> int: ...
def copy_blocks(
    threads: ThreadPool,
    source: int,
    destination: int,
    block_bytes: int,
    source_ids: Integers,
    destination_ids: Integers,
) -> None: ...
def decode_gguf(
    threads: ThreadPool,
    ggml_type: int,
    stored: Bytes,
    order: Integers,
    codes: Bytes,
    scales: Floats,
    minimums: Floats | None,
) -> None:
    """Decode rows of blocks: row i is row `order[i]` of `stored`.

    Args:
        ggml_type: the blocks' type, one of `octavo.checkpoints.gguf_groups.BLOCK_TYPES`.
        stored: `[rows, row_bytes]`.
        codes: `[n, code_bytes]`, the result's, as are scales and minimums, `[n, groups]`.
        minimums: None where the type has none.

    Raises:
        ValueError: the type is another, an array has another size, or a row is not there.
    """

def quantize_to_int8(instruction_set: str, threads: ThreadPool, rows: WeightRows, values: int, scales: int) -> None: ...
def quantize_to_int4(
    instruction_set: str, threads: ThreadPool, rows: WeightRows, codes: int, scales: int, minimums: int
) -> None: ...
def fill_groups(
    instruction_set: str,
    threads: ThreadPool,
    codes: Bytes,
    scales: Floats,
    minimums: Floats | None,
    own_codes: Bytes,
    own_scales: NDArray[np.uint16],
    own_minimums: NDArray[np.uint16] | None,
    row_scales: Floats,
) -> None:
    """Put the arrays of `octavo.kernels.grouped.GroupedRows` into those of some rows of a weight, the last four, whose
    float16 numbers come as bits.

    Raises:
        ValueError: they are of unlike sizes, or the columns of the first three don't lie side by side.
    """

def draw_tokens(
    instruction_set: str,
    threads: ThreadPool,
    logits: Floats,
    rows: Integers,
    temperature: Floats,
    top_k: Integers,
    top_p: NDArray[np.float64],
    min_p: NDArray[np.float64],
    keys: NDArray[np.uint32],
    token_ids: Integers,
) -> None: ...

class WeightRows:
    """Rows of floating point to be quantized, `stride` numbers apart."""

    def __init__(self, type: int, num_rows: int, num_inputs: int, stride: int, values: int) -> None: ...

class ThreadPool:
    """Threads that run steps, the calling one among them. They sleep between steps, and end with this object."""

    def __init__(self, num_threads: int) -> None: ...
    @property
    def num_threads(self) -> int: ...

class Weight:
    def __init__(
        self,
        threads: ThreadPool,
        type: int,
        num_outputs: int,
        num_inputs: int,
        values: int,
        scales: int = 0,
        packed: Bytes | None = None,
    ) -> None:
        """Packs a copy of the values; or takes what was packed before, which is not copied, and reads no values."""
    @staticmethod
    def grouped(
        threads: ThreadPool,
        bits: int,
        num_outputs: int,
        num_inputs: int,
        group: int,
        codes: int,
        scales: int,
        row_scales: int,
        minimums: int = 0,
        table: Sequence[int] | None = None,
        packed: Bytes | None = None,
    ) -> Weight:
        """A weight as `octavo.kernels.grouped.GroupedWeight` has it; or what was packed of such a one before. Minimums
        of 0 are none."""
    @property
    def packed(self) -> Bytes:
        """The memory that it lies in, read only; valid as long as the weight is."""
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

class Buffer:
    """A program's activations: `[num_tokens, width]` float32."""

class Program:
    def __init__(self, instruction_set: str, threads: ThreadPool) -> None: ...
    @property
    def instruction_set(self) -> str: ...
    def buffer(self, width: int) -> Buffer: ...
    def add(self, operation: str, arguments: Mapping[str, object], results: Sequence[Buffer]) -> None: ...
    def keep(self, buffer: Buffer, head: Weight | None) -> None: ...
    def run(
        self,
        token_ids: Integers,
        positions: Integers,
        slots: Integers,
        query_starts: Integers,
        context_lens: Integers,
        tables: Integers,
        block_tables: Integers,
    ) -> None: ...
    def logits(self, weight: Weight, buffer: Buffer, rows: Integers, out: Floats) -> None: ...
    def likeliest(self, weight: Weight, buffer: Buffer, rows: Integers, places: Integers) -> None: ...
    def read(self, buffer: Buffer, rows: Integers, out: Floats) -> None: ...
    def set_profiling(self, on: bool) -> None: ...
    def profile(self) -> list[tuple[str, float]]: ...
