"""Weights quantized while a model loads: how well 4 bits are chosen, and C++ against the reference."""

from dataclasses import replace

import pytest
import torch

from kernels.recorded import CPU, INSTRUCTION_SETS, kernels_for, random
from octavo.kernels.grouped import GroupedForm, GroupedRows, GroupedWeight
from octavo.kernels.interface import Kernels
from octavo.kernels.quantized import FORMATS, FP8, INT8, Format, QuantizedWeight
from octavo.kernels.quantizing import INT4, quantize_groups
from octavo.kernels.reference import ReferenceKernels

REFERENCE = ReferenceKernels()
ON_EACH = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
OF_EACH_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
SHAPES = [(64, 2048), (33, 77), (7, 1), (5, 576), (3, 31)]


def int4_by(kernels: Kernels, rows: torch.Tensor, form: GroupedForm = INT4) -> GroupedWeight:
    weight = GroupedWeight(rows.shape[0], rows.shape[1], form, CPU)
    kernels.quantize_into(weight, 0, rows)
    return weight


def bytes_by(kernels: Kernels, rows: torch.Tensor, how: Format = INT8) -> QuantizedWeight:
    weight = QuantizedWeight(rows.shape[0], rows.shape[1], CPU, how=how)
    kernels.quantize_into(weight, 0, rows)
    return weight


def squared_error(weight: GroupedWeight, rows: torch.Tensor) -> float:
    """Large numbers weigh more, as where it is made small."""
    wide = rows.double()
    weights = wide.abs() + wide.square().mean().sqrt()
    return float(((weight.dequantized() - wide).square() * weights).sum())


@ON_EACH
@OF_EACH_DTYPE
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_the_references_bit_for_bit(instruction_set: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    rows = random(*shape).to(dtype)
    own, expected = bytes_by(kernels_for(instruction_set), rows), bytes_by(REFERENCE, rows)
    assert torch.equal(own.values, expected.values)
    assert torch.equal(own.scales, expected.scales)


@ON_EACH
@OF_EACH_DTYPE
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_as_near_as_the_references_and_nearly_the_same(
    instruction_set: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    rows = random(*shape).to(dtype)
    own, expected = int4_by(kernels_for(instruction_set), rows), int4_by(REFERENCE, rows)
    # Sums are rounded otherwise, so where two roundings are as good the other one may be taken.
    assert (own.codes != expected.codes).float().mean() < 0.02
    assert squared_error(own, rows) == pytest.approx(squared_error(expected, rows), rel=0.01, abs=1e-9)


@pytest.mark.parametrize("instruction_set", [name for name in INSTRUCTION_SETS if name.startswith("a")])
def test_int4_is_the_same_wherever_a_multiply_add_rounds_once(instruction_set: str) -> None:
    rows = random(40, 700)
    own, other = int4_by(kernels_for(instruction_set), rows), int4_by(kernels_for("avx2"), rows)
    assert all(torch.equal(mine, its) for mine, its in zip(own.parameters(), other.parameters(), strict=True))


@ON_EACH
def test_rows_may_lie_apart_or_be_columns_and_go_where_they_belong(instruction_set: str) -> None:
    kernels = kernels_for(instruction_set)
    rows = random(20, 96)
    for piece in (rows[3:9, 32:], rows[::4], rows.T[:, 4:], rows[:, ::2]):
        for weight, alone in (
            (GroupedWeight(len(piece) + 9, piece.shape[1], INT4, CPU), int4_by(kernels, piece.contiguous())),
            (QuantizedWeight(len(piece) + 9, piece.shape[1], CPU), bytes_by(kernels, piece.contiguous())),
        ):
            for parameter in weight.parameters():
                parameter.data.fill_(7)
            kernels.quantize_into(weight, 2, piece)
            for parameter, expected in zip(weight.parameters(), alone.parameters(), strict=True):
                assert torch.equal(parameter[2 : 2 + len(piece)], expected)
                assert (parameter[:2] == 7).all()
                assert (parameter[2 + len(piece) :] == 7).all()


@pytest.mark.parametrize("name", ["reference", *INSTRUCTION_SETS])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_groups_of_every_kind_are_kept_within_a_step(name: str, magnitude: float) -> None:
    kernels = REFERENCE if name == "reference" else kernels_for(name)
    rows = torch.stack(
        [
            torch.zeros(64),
            torch.ones(64),  # all alike
            -torch.ones(64),
            torch.eye(64)[5],  # one large number
            torch.eye(64)[5] + 100,
            torch.arange(64.0),
            torch.arange(64.0) % 2 - 0.5,
            random(64),
        ]
    ) * torch.tensor(magnitude)
    dequantized = int4_by(kernels, rows).dequantized()
    groups = rows.view(8, 2, 32)
    steps = (groups.amax(dim=2) - groups.amin(dim=2)) / 15
    allowed = (1.5 * steps + groups.abs().amax(dim=2) * 2e-3).repeat_interleave(32, dim=1)  # scales are of 16 bits
    assert ((dequantized - rows).abs() <= allowed).all()
    bytes_ = bytes_by(kernels, rows)
    assert bytes_.scales.isfinite().all()
    assert ((bytes_.values * bytes_.scales.unsqueeze(1) - rows).abs() <= bytes_.scales.unsqueeze(1) * 0.501).all()


def test_spans_that_clip_and_steps_that_are_fitted_take_a_twentieth_off_the_squared_error() -> None:
    rows = random(256, 256)
    groups = rows.view(256, 8, 32)
    low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    steps = (high - low) / 15
    plain = (((groups - low) / steps).round() * steps + low).view(256, 256)
    fitted = quantize_groups(rows).dequantized()
    assert (fitted - rows).square().mean() < 0.95 * (plain - rows).square().mean()


def test_rows_that_do_not_fit_are_refused() -> None:
    kernels = kernels_for("portable")
    for weight in (GroupedWeight(4, 32, INT4, CPU), QuantizedWeight(4, 32, CPU)):
        for first_row, shape in ((3, (2, 32)), (0, (4, 31)), (4, (1, 32))):
            with pytest.raises(ValueError, match="do not fit into"):
                kernels.quantize_into(weight, first_row, random(*shape))


def test_other_forms_are_the_references() -> None:
    kernels, rows = kernels_for("portable"), random(6, 128)
    wider = GroupedForm(4, 64, has_minimums=True)
    pairs = (
        (int4_by(kernels, rows, wider), int4_by(REFERENCE, rows, wider)),
        (bytes_by(kernels, rows, FP8), bytes_by(REFERENCE, rows, FORMATS["fp8"])),
    )
    for own, expected in pairs:
        assert all(torch.equal(mine, its) for mine, its in zip(own.parameters(), expected.parameters(), strict=True))


GROUPED = {
    "4 bits": GroupedForm(4, 32),
    "4 bits with minimums": GroupedForm(4, 16, has_minimums=True),
    "8 bits": GroupedForm(8, 16),
    "8 bits with minimums": GroupedForm(8, 32, has_minimums=True),
}


def random_groups(form: GroupedForm, num_rows: int, num_inputs: int, magnitude: float = 1.0) -> GroupedRows:
    generator = torch.Generator().manual_seed(0)
    num_groups = -(-num_inputs // form.group)
    codes = torch.randint(0, 256, (num_rows, -(-num_inputs * form.bits // 8)), dtype=torch.uint8, generator=generator)
    scales = torch.randn(num_rows, num_groups, generator=generator) * magnitude
    scales[1:2] = 0  # a row of zeros, where there are several
    minimums = torch.randn(num_rows, num_groups, generator=generator) * magnitude if form.has_minimums else None
    return GroupedRows(form, num_inputs, codes if form.bits == 4 else codes.view(torch.int8), scales, minimums)


@ON_EACH
@pytest.mark.parametrize("form", GROUPED.values(), ids=GROUPED.keys())
@pytest.mark.parametrize(("num_rows", "num_inputs"), [(1, 32), (7, 77), (300, 1120)])
@pytest.mark.parametrize("magnitude", [1e-43, 1e-36, 1e-4, 1e30])
def test_groups_are_put_into_a_weight_as_by_the_reference_bit_for_bit(
    instruction_set: str, form: GroupedForm, num_rows: int, num_inputs: int, magnitude: float
) -> None:
    rows = random_groups(form, num_rows, num_inputs, magnitude)
    rows.scales[0, 0] = magnitude * 1e-5  # becomes a subnormal number
    own, expected = (GroupedWeight(num_rows + 5, num_inputs, form, CPU) for _ in range(2))
    for kernels, weight in ((kernels_for(instruction_set), own), (REFERENCE, expected)):
        for parameter in weight.parameters():
            parameter.data.fill_(7)
        kernels.fill(weight, 3, rows)
    assert all(torch.equal(mine, its) for mine, its in zip(own.parameters(), expected.parameters(), strict=True))


@ON_EACH
def test_groups_may_be_columns_of_wider_rows_or_be_turned_over(instruction_set: str) -> None:
    form = GROUPED["4 bits with minimums"]
    rows = random_groups(form, 9, 320)
    assert rows.minimums is not None
    turned = replace(rows, scales=rows.scales.T.contiguous().T, minimums=rows.minimums.T.contiguous().T)
    for piece in (rows.columns(range(64, 224)), turned):
        own, expected = (GroupedWeight(9, piece.num_inputs, form, CPU) for _ in range(2))
        kernels_for(instruction_set).fill(own, 0, piece)
        REFERENCE.fill(expected, 0, piece)
        assert all(torch.equal(mine, its) for mine, its in zip(own.parameters(), expected.parameters(), strict=True))


def test_groups_that_do_not_fit_are_refused() -> None:
    kernels, form = kernels_for("portable"), GROUPED["4 bits with minimums"]
    weight = GroupedWeight(4, 64, form, CPU)
    kernels.fill(weight, 0, random_groups(form, 4, 64))
    without = GroupedForm(4, 16)
    for first_row, rows in (
        (1, random_groups(form, 4, 64)),
        (0, random_groups(form, 4, 96)),
        (0, random_groups(without, 4, 64)),
    ):
        with pytest.raises(ValueError, match="sizes of the weight"):
            kernels.fill(weight, first_row, rows)
