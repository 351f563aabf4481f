"""GGUF's quantized blocks as rows in groups of inputs, with the file's own numbers.

The layouts are those of ggml's types (`block_q4_0` and so on in ggml-common.h). A block begins or ends with its scales;
where it has 256 elements, they are small integers beside a common float16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import IQ4_NL, MXFP4
from numpy.typing import NDArray

from octavo.kernels.grouped import GroupedForm, GroupedRows

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Decoded = tuple[NDArray[Any], Floats, Floats | None]
"""Of blocks `[n, ...]`: codes as `GroupedWeight` has them, scales, and minimums where there are some."""


@dataclass(frozen=True, slots=True)
class BlockType:
    """One of the file's types that a weight in groups can keep as it is."""

    form: GroupedForm
    decode: Callable[[Bytes], Decoded]
    """Takes `[n, block_bytes]`."""


def grouped_rows(stored: Bytes, kind: GGMLQuantizationType, num_inputs: int) -> GroupedRows:
    """`[n, row_bytes]` of one of the `BLOCK_TYPES` -> n rows."""
    block_type = BLOCK_TYPES[kind]
    blocks = np.ascontiguousarray(stored).reshape(-1, GGML_QUANT_SIZES[kind][1])
    codes, scales, minimums = block_type.decode(blocks)
    return GroupedRows(
        block_type.form,
        num_inputs,
        torch.from_numpy(codes.reshape(len(stored), -1)),
        torch.from_numpy(scales.reshape(len(stored), -1)),
        None if minimums is None else torch.from_numpy(minimums.reshape(len(stored), -1)),
    )


def _q4_0(blocks: Bytes) -> Decoded:
    return _pairs(blocks[:, 2:]), _float16(blocks, 0), None


def _q4_1(blocks: Bytes) -> Decoded:
    return _pairs(blocks[:, 4:]), _float16(blocks, 0), -_float16(blocks, 2)


def _q5_0(blocks: Bytes) -> Decoded:
    codes = _halves(blocks[:, 6:], 16) | _bits(blocks[:, 2:6]) << 4
    return codes.view(np.int8) - np.int8(16), _float16(blocks, 0), None


def _q5_1(blocks: Bytes) -> Decoded:
    codes = _halves(blocks[:, 8:], 16) | _bits(blocks[:, 4:8]) << 4
    return codes.view(np.int8), _float16(blocks, 0), -_float16(blocks, 2)


def _q8_0(blocks: Bytes) -> Decoded:
    return blocks[:, 2:].view(np.int8), _float16(blocks, 0), None


def _q2_k(blocks: Bytes) -> Decoded:
    scales, minimums = blocks[:, :16] & 15, blocks[:, :16] >> 4
    codes = _quarters(blocks[:, 16:80], 32)
    return _packed(codes), _float16(blocks, 80) * scales, _float16(blocks, 82) * minimums


def _q3_k(blocks: Bytes) -> Decoded:
    high_bits = np.unpackbits(blocks[:, :32, None], axis=2, bitorder="little").transpose(0, 2, 1).reshape(-1, 256)
    codes = _quarters(blocks[:, 32:96], 32) + 4 * high_bits  # a number is its two bits, less 4 where the third is 0
    scales = _halves(blocks[:, 96:104], 8) | _quarters(blocks[:, 104:108], 4) << 4
    return _packed(codes + 4), _float16(blocks, 108) * (scales.view(np.int8) - np.int8(32)), None


def _q4_k(blocks: Bytes) -> Decoded:
    scales, minimums = _six_bits(blocks[:, 4:16])
    codes = _pairs(blocks[:, 16:].reshape(-1, 32))
    return codes, _float16(blocks, 0) * scales, _float16(blocks, 2) * minimums


def _q5_k(blocks: Bytes) -> Decoded:
    scales, minimums = _six_bits(blocks[:, 4:16])
    high_bits = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").transpose(0, 2, 1).reshape(-1, 256)
    codes = _halves(blocks[:, 48:], 32) | high_bits << 4
    return codes.view(np.int8), _float16(blocks, 0) * scales, _float16(blocks, 2) * minimums


def _q6_k(blocks: Bytes) -> Decoded:
    codes = _halves(blocks[:, :128], 64) | _quarters(blocks[:, 128:192], 32) << 4
    scales = blocks[:, 192:208].view(np.int8)
    return codes.view(np.int8) - np.int8(32), _float16(blocks, 208) * scales, None


def _iq4_xs(blocks: Bytes) -> Decoded:
    high_bits = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low_bits = np.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), axis=2).reshape(-1, 8)
    scales = (low_bits | high_bits.astype(np.uint8) << 4).view(np.int8) - np.int8(32)
    return _pairs(blocks[:, 8:].reshape(-1, 16)), _float16(blocks, 0) * scales, None


def _mxfp4(blocks: Bytes) -> Decoded:
    scales: Floats = MXFP4.e8m0_to_fp32_half(blocks[:, :1])  # half, as the table's numbers are doubled
    return _pairs(blocks[:, 1:]), scales, None


BLOCK_TYPES = {
    GGMLQuantizationType.Q4_0: BlockType(GroupedForm(4, 32), _q4_0),
    GGMLQuantizationType.Q4_1: BlockType(GroupedForm(4, 32, has_minimums=True), _q4_1),
    GGMLQuantizationType.Q5_0: BlockType(GroupedForm(8, 32), _q5_0),
    GGMLQuantizationType.Q5_1: BlockType(GroupedForm(8, 32, has_minimums=True), _q5_1),
    GGMLQuantizationType.Q8_0: BlockType(GroupedForm(8, 32), _q8_0),
    GGMLQuantizationType.Q2_K: BlockType(GroupedForm(4, 16, has_minimums=True), _q2_k),
    GGMLQuantizationType.Q3_K: BlockType(GroupedForm(4, 16), _q3_k),
    GGMLQuantizationType.Q4_K: BlockType(GroupedForm(4, 32, has_minimums=True), _q4_k),
    GGMLQuantizationType.Q5_K: BlockType(GroupedForm(8, 32, has_minimums=True), _q5_k),
    GGMLQuantizationType.Q6_K: BlockType(GroupedForm(8, 16), _q6_k),
    GGMLQuantizationType.IQ4_NL: BlockType(GroupedForm(4, 32, table=IQ4_NL.kvalues), _q4_0),
    GGMLQuantizationType.IQ4_XS: BlockType(GroupedForm(4, 32, table=IQ4_NL.kvalues), _iq4_xs),
    GGMLQuantizationType.MXFP4: BlockType(GroupedForm(4, 32, table=MXFP4.kvalues), _mxfp4),
}
"""The types that weights keep. Others are dequantized."""


def _float16(blocks: Bytes, at: int) -> Floats:
    """The float16 that each block has at a byte: `[n, 1]`."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _pairs(halves: Bytes) -> Bytes:
    """Bytes `[n, width]` with element i in the low half of byte i and element `width` + i in the high one -> the same
    with elements 2i and 2i + 1 in byte i."""
    both = np.ascontiguousarray(halves).view("<u2")
    low, high = both & 0x0F | both >> 4 & 0xF0, both >> 4 & 0x0F | both >> 8 & 0xF0
    return np.concatenate((low.astype(np.uint8), high.astype(np.uint8)), axis=1)


def _packed(codes: Bytes) -> Bytes:
    """Codes under 16, two in a byte, the first in its low half."""
    packed: Bytes = np.asarray(codes[:, ::2] | codes[:, 1::2] << 4, np.uint8)
    return packed


def _halves(stored: Bytes, run: int) -> Bytes:
    """Codes of 4 bits: of each run of bytes first all low halves, then all high ones."""
    runs = stored.reshape(len(stored), -1, 1, run)
    codes: Bytes = np.concatenate((runs & 15, runs >> 4), axis=2)
    return codes.reshape(len(stored), -1)


def _quarters(stored: Bytes, run: int) -> Bytes:
    """Codes of 2 bits: of each run of bytes first all lowest bits, and so on."""
    runs = stored.reshape(len(stored), -1, 1, run)
    codes: Bytes = np.asarray(runs >> np.arange(0, 8, 2, dtype=np.uint8).reshape(4, 1) & 3, np.uint8)
    return codes.reshape(len(stored), -1)


def _bits(stored: Bytes) -> Bytes:
    """Single bits, the lowest first."""
    return np.unpackbits(stored, axis=1, bitorder="little")


def _six_bits(stored: Bytes) -> tuple[Bytes, Bytes]:
    """The eight scales and eight minimums of a block of Q4_K or Q5_K, from 12 bytes: the low bits of the first four of
    each, with the high bits of the last four above them, and then the low bits of those."""
    scales, minimums, last = stored[:, :4], stored[:, 4:8], stored[:, 8:]
    return (
        np.concatenate((scales & 63, last & 15 | scales >> 2 & 48), axis=1),
        np.concatenate((minimums & 63, last >> 4 | minimums >> 2 & 48), axis=1),
    )
