"""Reads a GGUF file's header: its metadata and where its tensors lie. Torch-free: tokenizers need it too.

The gguf package's own reader makes two memory maps of every vocabulary entry, 1.9 s and 160 MB for SmolLM2's, and
trusts the lengths in the file. The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_MAGIC,
    GGMLQuantizationType,
    GGUFValueType,
    Keys,
)

from octavo.checkpoints.pieced_file import Bytes, PiecedFile
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

    file: PiecedFile
    quantization: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    """From the start of the file, in bytes."""
    row_bytes: int
    """Bytes of one row, which is all that differs in the last dimension only."""

    @property
    def num_rows(self) -> int:
        """Rows, those of all dimensions but the last together; 1 where there is one dimension only."""
        return math.prod(self.shape[:-1])

    def read_rows(self, rows: range) -> Bytes:
        """The bytes of consecutive rows, `[len(rows), row_bytes]`."""
        first, last = (self.offset + row * self.row_bytes for row in (rows.start, rows.stop))
        return self.file.read(first, last).reshape(len(rows), self.row_bytes)


class Strings(Sequence[str]):
    """An array of texts, decoded when the first is asked for. A vocabulary has some hundred thousand, and of all that
    read a header only a tokenizer wants them.

    Args:
        stored: each text as its length, 8 bytes, and its UTF-8.
        path: for the error where it is none.
    """

    def __init__(self, stored: bytes, count: int, path: Path) -> None:
        self._stored = stored
        self._count = count
        self._path = path

    @cached_property
    def _texts(self) -> list[str]:
        stored, unpack, at = self._stored, _LENGTH.unpack_from, 0
        texts = []
        try:
            for _ in range(self._count):  # kept tight
                start = at + _LENGTH.size
                at = start + unpack(stored, at)[0]
                texts.append(stored[start:at].decode())
        except UnicodeDecodeError as error:
            raise _unreadable(self._path, error) from error
        self._stored = b""
        return texts

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __contains__(self, text: object) -> bool:
        return text in self._texts

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._texts[place]

    def __eq__(self, other: object) -> bool:
        return self._texts == (other._texts if isinstance(other, Strings) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._texts)


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """A GGUF model without its tensors' bytes. Metadata values are plain Python numbers, bools, strings and lists; an
    array of texts is `Strings`."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(*pieces: Path) -> GGUFHeader:
    """Read the header of a model, and check that the tensors it lists are there.

    Args:
        pieces: the file; or, where it was cut into several, all of them in order, the header in the first. Of a model
            split into GGUF files, `-00001-of-0000N.gguf` and on, the first: the others are found beside it.

    Raises:
        ModelError: a file is not a GGUF, is truncated or is corrupt; a file of a split model is missing, or another
            than the first was named.
    """
    header = _read_one(pieces)
    count, number = (header.metadata.get(key, 0) for key in (Keys.Split.LLM_KV_SPLIT_COUNT, Keys.Split.LLM_KV_SPLIT_NO))
    if not isinstance(count, int) or count < 2:
        return header
    if number != 0:
        raise ModelError(f"{header.path} is part {number} of a model in {count} files: name the first (--model)")
    paths = _split_paths(header.path, count)
    return _joined([header, *(_read_one((path,)) for path in paths[1:])])


def _split_paths(first: Path, count: int) -> list[Path]:
    ending = "-{:05}-of-{:05}.gguf"
    stem, found, _ = first.name.rpartition(ending.format(1, count))
    if not found:
        raise ModelError(
            f"{first} is the first of {count} files of one model, which are found by their names: "
            f"it must end in {ending.format(1, count)}"
        )
    paths = [first.with_name(stem + ending.format(number, count)) for number in range(1, count + 1)]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ModelError(f"{first} is the first of {count} files of one model, of which are missing: {missing}")
    return paths


def _joined(parts: list[GGUFHeader]) -> GGUFHeader:
    """The metadata of the first and the tensors of all, checked to belong together."""
    first = parts[0]
    for number, part in enumerate(parts):
        own = (part.metadata.get(Keys.Split.LLM_KV_SPLIT_NO), part.metadata.get(Keys.Split.LLM_KV_SPLIT_COUNT))
        if own != (number, len(parts)):
            raise ModelError(f"{part.path} says that it is part {own[0]} of {own[1]}, not {number} of {len(parts)}")
    tensors = {name: info for part in parts for name, info in part.tensors.items()}
    expected = first.metadata.get(Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if len(tensors) != expected or len(tensors) != sum(len(part.tensors) for part in parts):
        raise ModelError(f"{first.path} and the files with it have {len(tensors)} tensors, it says {expected}")
    return GGUFHeader(first.path, first.metadata, tensors)


def _read_one(pieces: tuple[Path, ...]) -> GGUFHeader:
    path = pieces[0]
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(PiecedFile(pieces), data).header()
    except (OSError, ValueError, struct.error, OverflowError, MemoryError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} is not a readable GGUF file, or is truncated or corrupt: {error}")


class _Parser:
    """Reads a header front to back. Running past the end raises struct.error or ValueError."""

    def __init__(self, file: PiecedFile, data: mmap.mmap) -> None:
        """`data` is the file's first piece."""
        self.file = file
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
        return GGUFHeader(self.file.pieces[0], metadata, placed)

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def number(self, code: str) -> int:
        return int(self.unpack(struct.Struct("<" + code))[0])

    def string(self) -> str:
        start = self.skip_strings(1) + _LENGTH.size
        return self.data[start : self.at].decode()

    def skip_strings(self, count: int) -> int:
        """Go behind them. Returns where they begin."""
        data, at, end, unpack, size = self.data, self.at, len(self.data), _LENGTH.unpack_from, _LENGTH.size
        begin = at
        for _ in range(count):  # kept tight
            start, at = at, at + size + unpack(data, at)[0]
            if at > end:
                raise ValueError(f"a string at byte {start + size} reaches past the end of the file, byte {end}")
        self.at = at
        return begin

    def value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        return self.numbers(kind, 1)[0]

    def array(self, kind: int, count: int) -> Sequence[Any]:
        if kind == GGUFValueType.STRING:
            begin = self.skip_strings(count)
            return Strings(self.data[begin : self.at], count, self.file.pieces[0])
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
        if 0 in shape:
            raise ValueError(f"tensor {name!r} of shape {list(shape)} is empty")
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
        info = TensorInfo(self.file, quantization, shape, start + offset, shape[-1] // elements * num_bytes)
        end = info.offset + info.num_rows * info.row_bytes
        if end > self.file.num_bytes:
            raise ValueError(f"tensor {name!r} ends at byte {end}, the file at {self.file.num_bytes}")
        return name, info
