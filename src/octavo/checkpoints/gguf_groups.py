"""GGUF's quantized blocks as rows in groups of inputs, with the file's own numbers: csrc/gguf_blocks.cpp decodes."""

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import IQ4_NL, MXFP4
from numpy.typing import NDArray

from octavo.kernels import why_not_built
from octavo.kernels.grouped import GroupedForm, GroupedRows

BLOCK_TYPES = {
    GGMLQuantizationType.Q4_0: GroupedForm(4, 32),
    GGMLQuantizationType.Q4_1: GroupedForm(4, 32, has_minimums=True),
    GGMLQuantizationType.Q5_0: GroupedForm(8, 32),
    GGMLQuantizationType.Q5_1: GroupedForm(8, 32, has_minimums=True),
    GGMLQuantizationType.Q8_0: GroupedForm(8, 32),
    GGMLQuantizationType.Q2_K: GroupedForm(4, 16, has_minimums=True),
    GGMLQuantizationType.Q3_K: GroupedForm(4, 16),
    GGMLQuantizationType.Q4_K: GroupedForm(4, 32, has_minimums=True),
    GGMLQuantizationType.Q5_K: GroupedForm(8, 32, has_minimums=True),
    GGMLQuantizationType.Q6_K: GroupedForm(8, 16),
    GGMLQuantizationType.IQ4_NL: GroupedForm(4, 32, table=IQ4_NL.kvalues),
    GGMLQuantizationType.IQ4_XS: GroupedForm(4, 32, table=IQ4_NL.kvalues),
    GGMLQuantizationType.MXFP4: GroupedForm(4, 32, table=MXFP4.kvalues),
}
"""The types that a weight in groups can keep as they are, and their forms. Others are dequantized."""


def block_form(kind: GGMLQuantizationType) -> GroupedForm | None:
    """The form that blocks of a type are decoded to; None where they are dequantized: other types, and all where the
    C++ extension is not there."""
    form = BLOCK_TYPES.get(kind)
    return form if form is not None and why_not_built() is None else None


def grouped_rows(
    stored: NDArray[np.uint8], order: NDArray[np.int64], kind: GGMLQuantizationType, num_inputs: int
) -> GroupedRows:
    """Some rows of one of the `BLOCK_TYPES`.

    Args:
        stored: `[rows, row_bytes]`.
        order: which of them become the result's rows, `[n]`.
    """
    from octavo.kernels import _cpu
    from octavo.kernels.loading_threads import loading_threads

    form = BLOCK_TYPES[kind]
    num_rows, num_groups = len(order), num_inputs // form.group
    codes = np.empty((num_rows, num_inputs * form.bits // 8), np.uint8)
    scales = np.empty((num_rows, num_groups), np.float32)
    minimums = np.empty_like(scales) if form.has_minimums else None
    _cpu.decode_gguf(loading_threads(), kind, stored, order, codes, scales, minimums)
    return GroupedRows(
        form,
        num_inputs,
        torch.from_numpy(codes if form.bits == 4 else codes.view(np.int8)),
        torch.from_numpy(scales),
        None if minimums is None else torch.from_numpy(minimums),
    )
