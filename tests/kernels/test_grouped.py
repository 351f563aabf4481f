"""Weights in groups of inputs: what their codes stand for, and the reference's product with them."""

import pytest
import torch
from torch.nn import functional

from octavo.kernels.grouped import (
    GroupedForm,
    GroupedWeight,
    pack_nibbles,
    scales_in_float16,
    unpack_nibbles,
)
from octavo.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")
KERNELS = ReferenceKernels()
TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FORMS = {
    "4 bits": GroupedForm(4, 32),
    "4 bits, groups of 16": GroupedForm(4, 16),
    "4 bits, groups of 128 with minimums": GroupedForm(4, 128, has_minimums=True),
    "4 bits by a table": GroupedForm(4, 32, table=TABLE),
    "8 bits": GroupedForm(8, 32),
    "8 bits, groups of 16": GroupedForm(8, 16),
    "8 bits, groups of 64 with minimums": GroupedForm(8, 64, has_minimums=True),
}
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


def made(form: GroupedForm, num_outputs: int, num_inputs: int) -> tuple[GroupedWeight, torch.Tensor]:
    """A weight of random codes, and the numbers that it stands for, made output by output and input by input."""
    generator = torch.Generator().manual_seed(0)
    weight = GroupedWeight(num_outputs, num_inputs, form, CPU)
    low, high = (0, 16) if form.bits == 4 else (-128, 128)
    codes = torch.randint(low, high, (num_outputs, num_inputs), generator=generator)
    shape = weight.scales.shape
    scales = torch.rand(shape, generator=generator) * 1e-9
    minimums = torch.rand(shape, generator=generator) * 1e-8 if form.has_minimums else None
    weight.codes.data = pack_nibbles(codes.to(torch.uint8)) if form.bits == 4 else codes.to(torch.int8)
    weight.scales.data, rounded, weight.row_scales.data = scales_in_float16(scales, minimums)
    if weight.minimums is not None and rounded is not None:
        weight.minimums.data = rounded
    table = form.table or (range(16) if form.has_minimums else range(-8, 8))
    numbers = torch.empty(num_outputs, num_inputs, dtype=torch.float64)
    for output in range(num_outputs):
        for i in range(num_inputs):
            code, group = int(codes[output, i]), i // form.group
            number = table[code] if form.bits == 4 else code
            minimum = 0.0 if weight.minimums is None else float(weight.minimums[output, group])
            scaled = float(weight.scales[output, group]) * number - minimum
            numbers[output, i] = float(weight.row_scales[output]) * scaled
    return weight, numbers


@FORM
@pytest.mark.parametrize("num_inputs", [192, 77])
def test_a_weight_stands_for_its_numbers_times_their_groups_scale_less_the_minimum(
    form: GroupedForm, num_inputs: int
) -> None:
    weight, numbers = made(form, 5, num_inputs)
    torch.testing.assert_close(weight.dequantized().double(), numbers, rtol=1e-6, atol=1e-14)
    some = torch.tensor([4, 0, 4])
    assert torch.equal(weight.dequantized(some), weight.dequantized()[some])
    assert torch.equal(KERNELS.embedding(some, weight), weight.dequantized()[some])


@FORM
@pytest.mark.parametrize("num_inputs", [192, 77])
def test_a_product_quantizes_activations_with_a_scale_for_each_32(form: GroupedForm, num_inputs: int) -> None:
    weight, numbers = made(form, 6, num_inputs)
    hidden = torch.randn(3, num_inputs, generator=torch.Generator().manual_seed(1))
    grouped = functional.pad(hidden, (0, -num_inputs % 32)).view(3, -1, 32).double()
    steps = grouped.abs().amax(dim=2, keepdim=True) / 127
    rounded = ((grouped / steps).round() * steps).flatten(1)[:, :num_inputs]
    expected = rounded @ numbers.T
    torch.testing.assert_close(KERNELS.linear(hidden, weight).double(), expected, rtol=1e-5, atol=1e-11)


@FORM
def test_a_tokens_product_does_not_depend_on_the_other_tokens(form: GroupedForm) -> None:
    weight, _ = made(form, 6, 96)
    hidden = torch.randn(9, 96, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    together = KERNELS.linear(hidden, weight)
    assert together.dtype == torch.bfloat16
    assert torch.equal(torch.cat([KERNELS.linear(row.unsqueeze(0), weight) for row in hidden]), together)


def test_the_outputs_of_several_weights_lie_side_by_side() -> None:
    weights = [made(form, 4, 64)[0] for form in FORMS.values()]
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(3))
    bias = torch.randn(4 * len(weights), generator=torch.Generator().manual_seed(4))
    apart = torch.cat([KERNELS.linear(hidden, weight) for weight in weights], dim=1)
    assert torch.equal(KERNELS.linear(hidden, weights, bias), apart + bias)


def test_two_codes_share_a_byte_the_first_in_its_low_half() -> None:
    codes = torch.tensor([[1, 2, 15], [0, 9, 4]], dtype=torch.uint8)
    packed = pack_nibbles(codes)
    assert packed.tolist() == [[0x21, 0x0F], [0x90, 0x04]]
    assert torch.equal(unpack_nibbles(packed, 3), codes)


@pytest.mark.parametrize("largest", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_scales_keep_float16s_precision_whatever_their_magnitude(largest: float) -> None:
    scales = largest * torch.tensor([[1.0, -0.3, 1e-4], [0.7, 1e-7, 0.0]])
    minimums = largest * torch.tensor([[2.0, 1e-3, 0.0], [0.1, 0.2, 0.3]])
    own, own_minimums, row_scales = scales_in_float16(scales, minimums)
    assert own_minimums is not None
    torch.testing.assert_close(own.float() * row_scales.unsqueeze(1), scales, rtol=2**-11, atol=0)
    torch.testing.assert_close(own_minimums.float() * row_scales.unsqueeze(1), minimums, rtol=2**-11, atol=0)
    assert torch.frexp(row_scales)[0].eq(0.5).all(), "powers of two"


def test_a_row_of_zeros_stays_zeros() -> None:
    own, _, row_scales = scales_in_float16(torch.zeros(2, 3))
    assert own.eq(0).all()
    assert row_scales.isfinite().all()


@pytest.mark.parametrize("largest", [1e-38, 1e-41, 1e-45])
def test_a_row_of_the_smallest_numbers_stays_one(largest: float) -> None:
    scales = torch.tensor([[largest, -largest / 2]])
    own, _, row_scales = scales_in_float16(scales)
    assert ((own.float() * row_scales.unsqueeze(1) - scales).abs() <= largest * 2**-11 + 2**-149).all()
