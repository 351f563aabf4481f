"""Reads a GGUF file's header: its metadata and where its tensors lie. Torch-free: tokenizers need it too.

The gguf package's own reader makes two memory maps of every vocabulary entry, 1.9 s and 160 MB for SmolLM2's, and
trusts the lengths in the file. The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_MAGIC,
    GGMLQuantizationType,
    GGUFValueType,
)

from octavo.errors import ModelError

VERSIONS = (2, 3)
_SCALARS = {
    GGUFValueType.UINT8: "u1",
    GGUFValueType.INT8: "i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor's bytes are. `shape` is in torch's order, the dimension that is contiguous last."""

    quantization: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    """From the start of the file, in bytes."""
    row_bytes: int
    """Bytes of one row of the first dimension; of the whole where there is one dimension only."""

    @property
    def num_rows(self) -> int:
        """Rows of the first dimension; 1 where there is one dimension only."""
        return self.shape[0] if len(self.shape) > 1 else 1


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """A GGUF file without its tensors' bytes. Metadata values are plain Python numbers, bools, strings and lists."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GGUFHeader:
    """Read the header, and check that the tensors it lists are in the file.

    Raises:
        ModelError: the file is not a GGUF, is truncated or is corrupt.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(path, data).header()
    except (OSError, ValueError, struct.error, OverflowError, MemoryError, RecursionError) as error:
        raise ModelError(f"{path} is not a readable GGUF file, or is truncated or corrupt: {error}") from error


class _Parser:
    """Reads a header front to back. Running past the end raises struct.error or ValueError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def header(self) -> GGUFHeader:
        magic, version, num_tensors, num_values = self.unpack(struct.Struct("<IIQQ"))
        if magic != GGUF_MAGIC or version not in VERSIONS:
            raise ValueError(f"magic number {magic:#x} and version {version}, expected {GGUF_MAGIC:#x} and {VERSIONS}")
        metadata = {self.string(): self.value(self.number("I")) for _ in range(num_values)}
        tensors = [self.tensor() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ValueError(f"general.alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        placed = dict(self.place(*tensor, start) for tensor in tensors)
        if len(placed) < num_tensors:
            raise ValueError("two tensors have the same name")
        return GGUFHeader(self.path, metadata, placed)

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def number(self, code: str) -> int:
        return int(self.unpack(struct.Struct("<" + code))[0])

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """Kept tight: a vocabulary has some hundred thousand."""
        data, at, end, unpack = self.data, self.at, len(self.data), _LENGTH.unpack_from
        found = []
        for _ in range(count):
            start = at + _LENGTH.size
            at = start + unpack(data, at)[0]
            if at > end:
                raise ValueError(f"a string at byte {start} reaches past the end of the file, byte {end}")
            found.append(data[start:at].decode())
        self.at = at
        return found

    def value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        return self.numbers(kind, 1)[0]

    def array(self, kind: int, count: int) -> list[Any]:
        if kind == GGUFValueType.STRING:
            return self.strings(count)
        if kind == GGUFValueType.ARRAY:
            return [self.value(kind) for _ in range(count)]
        return self.numbers(kind, count)

    def numbers(self, kind: int, count: int) -> list[Any]:
        dtype = np.dtype(_SCALARS[GGUFValueType(kind)])
        # A copy, so that the map can be closed.
        end = self.at + count * dtype.itemsize
        if end > len(self.data):
            raise ValueError(f"an array of {count} numbers at byte {self.at} reaches past the end of the file")
        values: list[Any] = np.frombuffer(self.data[self.at : end], dtype).tolist()
        self.at = end
        return values

    def tensor(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        """One entry of the tensor table: name, shape, quantization, and offset from the start of the tensors."""
        name = self.string()
        num_dimensions = self.number("I")
        if not 1 <= num_dimensions <= 4:
            raise ValueError(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(reversed(self.unpack(struct.Struct(f"<{num_dimensions}Q"))))
        return name, shape, GGMLQuantizationType(self.number("I")), self.number("Q")

    def place(
        self, name: str, shape: tuple[int, ...], quantization: GGMLQuantizationType, offset: int, start: int
    ) -> tuple[str, TensorInfo]:
        """The entry with its offset in the file, checked against the file's size."""
        elements, num_bytes = GGML_QUANT_SIZES[quantization]
        if shape[-1] % elements:
            raise ValueError(
                f"tensor {name!r} has rows of {shape[-1]}, {quantization.name} needs multiples of {elements}"
            )
        row_bytes = math.prod(shape[1:] or shape) // elements * num_bytes
        info = TensorInfo(quantization, shape, start + offset, row_bytes)
        end = info.offset + info.num_rows * row_bytes
        if end > len(self.data):
            raise ValueError(f"tensor {name!r} ends at byte {end}, the file at {len(self.data)}")
        return name, info
