"""Matrices packed to 4 or 8 bits in safetensors: AWQ, GPTQ and compressed-tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from octavo.checkpoints.packing import Packing
from octavo.checkpoints.source import Rows, TensorSource
from octavo.errors import ModelError
from octavo.kernels.grouped import GroupedForm, GroupedRows, unpack_nibbles

GROUPS = (128, 64, 32, 16)
"""That a weight may have; wider ones are several, with the same scale."""
ELEMENTS_AT_ONCE = 1 << 21
AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a 32-bit word of AWQ the first of its eight outputs is, the second, and so on (AutoAWQ's `gemm`)."""
ENDINGS = {"awq": ".qweight", "gptq": ".qweight", "compressed-tensors": ".weight_packed"}
"""Of the names of packed matrices, in place of `.weight`."""
COMPANIONS = (
    *(".qweight", ".qzeros", ".scales", ".g_idx"),
    *(".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx"),
)
"""Of the names of all tensors that make up one."""


class RawSource(TensorSource, Protocol):
    """A source that gives tensors of any dtype."""

    def raw(self, name: str) -> torch.Tensor:
        """The whole tensor, as a view of the file."""
        ...


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A packed matrix: `number * scale` of its group, where a number is a code less the group's zero point."""

    shape: tuple[int, int]
    bits: int
    codes: Callable[[range], torch.Tensor]
    """Of a range of outputs: `[n, inputs]` uint8, or `[n, ceil(inputs / 2)]` where they have 4 bits, the first of two
    in the low half of a byte."""
    scales: torch.Tensor
    """`[outputs, groups]`."""
    zeros: torch.Tensor
    """`[outputs, groups]` uint8."""
    groups: torch.Tensor | None
    """`[inputs]`, each one's group, where they do not follow each other."""

    @property
    def group(self) -> int:
        """Inputs of a group."""
        return -(-self.shape[1] // self.scales.shape[1])

    @property
    def middle(self) -> int:
        """The code of a symmetric matrix's zeros."""
        return 1 << (self.bits - 1)

    def form(self) -> GroupedForm | None:
        """What a weight can keep it as; None where it cannot."""
        is_whole = self.scales.shape[1] == 1
        group = next((size for size in GROUPS if is_whole or self.group % size == 0), None)
        if group is None or self.groups is not None:
            return None
        return GroupedForm(4 if self.bits == 4 else 8, group, has_minimums=bool((self.zeros != self.middle).any()))

    def grouped(self, outputs: range, form: GroupedForm) -> GroupedRows:
        """Some rows in that form."""
        codes, rows = self.codes(outputs), slice(outputs.start, outputs.stop)
        scales = self.scales[rows].to(torch.float32)
        lowest = 0 if self.bits == 4 else self.middle
        minimums = scales * (self.zeros[rows].to(torch.float32) - lowest) if form.has_minimums else None
        if self.bits == 8:
            codes = (codes ^ 128).view(torch.int8)
        times, count = -(-self.group // form.group), -(-self.shape[1] // form.group)
        scales = scales.repeat_interleave(times, dim=1)[:, :count]
        minimums = None if minimums is None else minimums.repeat_interleave(times, dim=1)[:, :count]
        return GroupedRows(form, self.shape[1], codes, scales, minimums)

    def dequantized(self, outputs: range) -> torch.Tensor:
        """Some rows as numbers: `[n, inputs]` float32."""
        codes, rows = self.codes(outputs), slice(outputs.start, outputs.stop)
        if self.bits == 4:
            codes = unpack_nibbles(codes, self.shape[1])
        groups = torch.arange(self.shape[1]) // self.group if self.groups is None else self.groups.long()
        zeros, scales = self.zeros[rows].to(torch.float32), self.scales[rows].to(torch.float32)
        return (codes.to(torch.float32) - zeros[:, groups]) * scales[:, groups]


class PackedTensors:
    """A checkpoint's tensors, with packed matrices under the names of plain ones; a `TensorSource`.

    A matrix whose groups take inputs from everywhere (GPTQ's `desc_act`), or have a size that weights do not have, is
    dequantized.
    """

    def __init__(self, stored: RawSource, packing: Packing) -> None:
        self._stored = stored
        self._packing = packing
        names, ending = stored.names(), ENDINGS[packing.method]
        stems = [name.removesuffix(ending) for name in names if name.endswith(ending)]
        parts = {stem + companion for stem in stems for companion in COMPANIONS}
        self._stems = {f"{stem}.weight": stem for stem in stems}
        self._names = [*self._stems, *(name for name in names if name not in parts)]
        self._all = frozenset(names)
        self._known: tuple[str, _Matrix] | None = None

    def names(self) -> list[str]:
        """The packed ones first."""
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        return self._matrix(name).shape if name in self._stems else self._stored.shape(name)

    def file(self, name: str) -> str:
        """The file that holds the tensor."""
        stem = self._stems.get(name)
        return self._stored.file(name if stem is None else stem + ENDINGS[self._packing.method])

    def form(self, name: str) -> GroupedForm | None:
        """That of a packed matrix, where a weight can keep it."""
        return self._matrix(name).form() if name in self._stems else None

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, Rows]]:
        """`(first row, values)` over `rows`, about `ELEMENTS_AT_ONCE` at a time where they are packed."""
        if name not in self._stems:
            yield from self._stored.slices(name, rows)
            return
        matrix = self._matrix(name)
        form = matrix.form()
        at_once = max(8, ELEMENTS_AT_ONCE // matrix.shape[1] // 8 * 8)
        for start in range(rows.start, rows.stop, at_once):
            piece = range(start, min(rows.stop, start + at_once))
            yield start, matrix.dequantized(piece) if form is None else matrix.grouped(piece, form)

    def _matrix(self, name: str) -> _Matrix:
        """The matrix of that name; the last one is kept, as each is asked for several times."""
        if self._known is None or self._known[0] != name:
            read = {"awq": self._awq, "gptq": self._gptq, "compressed-tensors": self._compressed}
            try:
                self._known = name, read[self._packing.method](self._stems[name])
            except (IndexError, ValueError, RuntimeError) as error:
                raise ModelError(f"tensor {name!r} in {self.file(name)} is not packed as expected: {error}") from error
        return self._known[1]

    def _raw(self, name: str) -> torch.Tensor:
        if name not in self._all:
            raise ValueError(f"there is no tensor {name!r}")
        return self._stored.raw(name)

    def _awq(self, stem: str) -> _Matrix:
        words, scales = self._raw(f"{stem}.qweight"), self._raw(f"{stem}.scales").T
        zeros = _unpacked(self._raw(f"{stem}.qzeros"), 4)[:, :, AWQ_PLACES].flatten(1).T
        shape = (words.shape[1] * 8, words.shape[0])
        return _checked(_Matrix(shape, 4, partial(_awq_codes, words), scales, zeros, None))

    def _gptq(self, stem: str) -> _Matrix:
        bits = self._packing.bits
        words, scales = self._raw(f"{stem}.qweight"), self._raw(f"{stem}.scales").T
        shape = (words.shape[1], words.shape[0] * 32 // bits)
        zeros = _unpacked(self._raw(f"{stem}.qzeros"), bits).flatten(1).T + self._packing.zero_offset
        groups = self._raw(f"{stem}.g_idx") if f"{stem}.g_idx" in self._all else None
        codes = partial(_word_codes, words.T, shape[1], bits)
        return _checked(_Matrix(shape, bits, codes, scales, zeros, _unordered(groups, shape[1], scales.shape[1])))

    def _compressed(self, stem: str) -> _Matrix:
        words, scales = self._raw(f"{stem}.weight_packed"), self._raw(f"{stem}.weight_scale")
        num_outputs, num_inputs = self._raw(f"{stem}.weight_shape").tolist()
        bits = next((bits for bits in (4, 8) if -(-num_inputs * bits // 32) == words.shape[1]), None)
        if bits is None:
            raise ValueError(f"{words.shape[1]} words a row for {num_inputs} numbers are not of 4 bits, nor of 8")
        zeros = torch.full_like(scales, 1 << (bits - 1), dtype=torch.uint8)
        if f"{stem}.weight_zero_point" in self._all:
            stored = self._raw(f"{stem}.weight_zero_point")
            zeros = _unpacked(stored.T.contiguous(), bits).flatten(1).T[:num_outputs]
        groups = self._raw(f"{stem}.weight_g_idx") if f"{stem}.weight_g_idx" in self._all else None
        codes = partial(_word_codes, words, num_inputs, bits)
        unordered = _unordered(groups, num_inputs, scales.shape[1])
        return _checked(_Matrix((num_outputs, num_inputs), bits, codes, scales, zeros, unordered))


def _checked(matrix: _Matrix) -> _Matrix:
    """The matrix, whose scales and zero points are as many as its outputs and groups."""
    expected = (matrix.shape[0], matrix.scales.shape[1])
    if matrix.scales.shape != expected or matrix.zeros.shape != expected:
        raise ValueError(f"scales {list(matrix.scales.shape)}, zeros {list(matrix.zeros.shape)}, not {list(expected)}")
    return matrix


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """`[n, width]` int32 -> `[n, width, 32 / bits]` uint8, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return (words.unsqueeze(2) >> shifts & ((1 << bits) - 1)).to(torch.uint8)


def _word_codes(words: torch.Tensor, num_inputs: int, bits: int, outputs: range) -> torch.Tensor:
    """Of `[outputs, width]` int32, with the first inputs in the lowest bits: their bytes are codes as they are."""
    rows = words[outputs.start : outputs.stop].contiguous().view(torch.uint8)
    return rows[:, : -(-num_inputs * bits // 8)]


def _awq_codes(words: torch.Tensor, outputs: range) -> torch.Tensor:
    """Of `[inputs, width]` int32, each of eight outputs."""
    first, last = outputs.start // 8, -(-outputs.stop // 8)
    codes = _unpacked(words[:, first:last], 4)[:, :, AWQ_PLACES].flatten(1)
    own = codes[:, outputs.start - 8 * first : outputs.stop - 8 * first]
    return (own[::2] | own[1::2] << 4).T.contiguous()


def _unordered(groups: torch.Tensor | None, num_inputs: int, num_groups: int) -> torch.Tensor | None:
    """Each input's group, where they do not follow each other."""
    if groups is None:
        return None
    in_order = torch.arange(num_inputs) // -(-num_inputs // num_groups)
    return None if torch.equal(groups.long(), in_order) else groups
