"""Reads a model's tensors from a GGUF file, slice by slice: their names, and weights as they are or dequantized."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import get_tensor_name_map
from gguf.quants import dequantize

from octavo.checkpoints.gguf_config import ROTARY_FACTORS, architecture_of
from octavo.checkpoints.gguf_groups import block_form, grouped_rows
from octavo.checkpoints.gguf_header import GGUFHeader, TensorInfo
from octavo.checkpoints.source import Rows
from octavo.errors import ModelError
from octavo.kernels.grouped import GroupedForm

SLICE_BYTES = 4 << 20
"""Read at a time, counted as it is stored where it stays in groups, else as float32: small beside any model, and large
beside a call's cost."""

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A Hugging Face tensor inside the file: a whole one, or an expert's part of one that has all experts."""

    info: TensorInfo
    shape: tuple[int, ...]
    first_row: int = 0


class GGUFTensors:
    """A GGUF file's tensors under their Hugging Face names; a `TensorSource`.

    Matrices are `[outputs, inputs]`, also where Hugging Face's checkpoint has them the other way round.
    """

    def __init__(self, header: GGUFHeader, num_layers: int, head_dim: int, wanted: Iterable[str]) -> None:
        """`wanted` are the Hugging Face names to offer; other tensors keep the file's names."""
        self.header = header
        self.head_dim = head_dim
        self.architecture = architecture_of(header)
        self._names = get_tensor_name_map(self.architecture.kind, num_layers)
        found = {name: stored for name in wanted if (stored := self._find(name)) is not None}
        named = {id(stored.info) for stored in found.values()}
        rest = {name: info for name, info in header.tensors.items() if id(info) not in named}
        unknown = {name: _Stored(info, info.shape) for name, info in rest.items() if name not in ROTARY_FACTORS}
        self._stored = found | unknown

    def names(self) -> list[str]:
        """In the order of the file, or of the files of a split model."""
        order = {id(info): place for place, info in enumerate(self.header.tensors.values())}
        return sorted(self._stored, key=lambda name: order[id(self._stored[name].info)])

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        return self._stored[name].shape

    def file(self, name: str) -> str:
        """The file that holds the tensor."""
        return str(self._stored[name].info.file)

    def form(self, name: str) -> GroupedForm | None:
        """That of the file's type, of a matrix."""
        stored = self._stored[name]
        return block_form(stored.info.quantization) if len(stored.shape) > 1 else None

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, Rows]]:
        """`(first row, values)` over `rows`, about `SLICE_BYTES` at a time: in groups, or float32.

        Raises:
            ModelError: the gguf package does not know how to dequantize the tensor.
        """
        stored = self._stored[name]
        if len(stored.shape) == 1:
            values = self._values(name, stored, range(1))[0][self._order(name, rows)]
            yield rows.start, torch.from_numpy(values - 1 if self._has_one_added(name) else values)
            return
        is_grouped = self.form(name) is not None
        rows_at_once = max(1, SLICE_BYTES // (stored.info.row_bytes if is_grouped else 4 * stored.shape[-1]))
        for start in range(rows.start, rows.stop, rows_at_once):
            piece = range(start, min(rows.stop, start + rows_at_once))
            order = self._order(name, piece) + stored.first_row
            span = range(int(order.min()), int(order.max()) + 1)
            if is_grouped:
                info = stored.info
                yield start, grouped_rows(info.read_rows(span), order - span.start, info.quantization, stored.shape[-1])
            else:
                yield start, torch.from_numpy(self._values(name, stored, span)[order - span.start])

    def _find(self, name: str) -> _Stored | None:
        """Where the tensor that Hugging Face calls `name` is; None where the file has none."""
        tensors = self.header.tensors
        expert = _EXPERT.search(name)
        if expert is None:
            info = tensors.get(self._names.get_name(name, try_suffixes=(".weight", ".bias")) or "")
            return None if info is None else _Stored(info, info.shape)
        number = int(expert[1])
        merged: str = self._names.get_name(_EXPERT.sub(".experts.", name), try_suffixes=(".weight",)) or ""
        if merged in tensors and number < tensors[merged].shape[0]:
            info = tensors[merged]
            return _Stored(info, info.shape[1:], number * info.shape[1])
        alone = tensors.get(merged.replace("_exps.", f".{number}."))  # as files of early 2024 have it
        return None if alone is None else _Stored(alone, alone.shape)

    def _order(self, name: str, rows: range) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Which rows of the file's tensor are the wanted `rows`.

        llama.cpp rotates neighbouring dimensions of a LLaMA, not the halves of a head, so its converter interleaves the
        halves of each head's rows in the query and key projections (`permute` in convert_hf_to_gguf.py).
        """
        wanted = np.arange(rows.start, rows.stop)
        is_rotated = ".self_attn.q_proj." in name or ".self_attn.k_proj." in name
        if not (self.architecture.interleaves_heads and is_rotated):
            return wanted
        width = self.head_dim
        half, pair = np.divmod(wanted % width, width // 2)
        stored: np.ndarray[Any, np.dtype[np.int64]] = wanted - wanted % width + 2 * pair + half
        return stored

    def _has_one_added(self, name: str) -> bool:
        """Whether the file has a Gemma's norm as it is applied, where a checkpoint's is one less."""
        return self.architecture.norms_have_one_added and name.endswith("norm.weight")

    def _values(self, name: str, stored: _Stored, rows: range) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Dequantized rows of the tensor in the file."""
        info = stored.info
        try:
            # The map is read-only and float32 comes through as it is: torch wants memory that could be written.
            return np.require(dequantize(info.read_rows(rows), info.quantization), np.float32, "W")
        except NotImplementedError as error:
            raise ModelError(f"tensor {name!r} in {info.file}: {error}") from error
