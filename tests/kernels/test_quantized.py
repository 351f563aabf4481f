"""Symmetric int8 in the reference: how rows are rounded, sums that are exact, and products made of both."""

import pytest
import torch
from torch.nn import functional

from octavo.kernels.quantized import EXACT_INPUTS, QuantizedWeight, exact_products, quantize_rows
from octavo.kernels.reference import ReferenceKernels

CPU = torch.device("cpu")
KERNELS = ReferenceKernels()
FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(weight: torch.Tensor) -> QuantizedWeight:
    own = QuantizedWeight(weight.shape[0], weight.shape[1], CPU, weight.dtype)
    own.values.data, own.scales.data = quantize_rows(weight)
    return own


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_is_scaled_so_that_its_largest_magnitude_becomes_127(dtype: torch.dtype) -> None:
    rows = random(20, 33).to(dtype)
    values, scales = quantize_rows(rows)
    assert values.dtype == torch.int8
    assert scales.dtype == torch.float32
    assert values.abs().amax(dim=1).eq(127).all()
    assert ((values * scales.unsqueeze(1) - rows).abs() <= scales.unsqueeze(1) * 0.50001).all()


def test_halves_are_rounded_to_even() -> None:
    values, scales = quantize_rows(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]))
    assert scales.tolist() == [1.0]
    assert values.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


def test_a_row_of_zeros_has_a_scale_of_zero_and_harms_no_other() -> None:
    values, scales = quantize_rows(torch.tensor([[0.0, 0.0], [-3.0, 1.5], [3e38, -3e38], [-1e-30, 1e-30]]))
    assert values.tolist() == [[0, 0], [-127, 64], [127, -127], [-127, 127]]
    assert scales[0] == 0
    assert scales.isfinite().all()


@pytest.mark.parametrize("num_inputs", [1, 37, EXACT_INPUTS, EXACT_INPUTS + 1, 5000])
def test_sums_are_those_of_int64_even_at_extreme_values(num_inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-127, 128, (6, num_inputs), generator=generator)
    right = torch.randint(-127, 128, (9, num_inputs), generator=generator)
    left[0], left[1], right[0], right[1] = 127, -127, 127, -127
    left[2, ::2], right[2, ::2] = 127, -127
    sums = exact_products(left.to(torch.int8), right.to(torch.int8))
    assert torch.equal(sums.to(torch.int64), left @ right.T)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_quantized_product_is_the_sum_times_both_scales_in_the_activations_dtype(dtype: torch.dtype) -> None:
    weight, bias = quantized(random(24, 80, seed=1)), random(24, seed=2).to(dtype)
    hidden = random(5, 80).to(dtype)
    values, scales = quantize_rows(hidden)
    sums = (values.to(torch.int64) @ weight.values.to(torch.int64).T).double()
    expected = (sums * scales.double().unsqueeze(1) * weight.scales.double()).to(dtype) + bias
    actual = KERNELS.linear(hidden, weight, bias)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=max(1e-6, torch.finfo(dtype).eps), atol=1e-5)


def test_a_quantized_product_is_close_to_the_float_one() -> None:
    hidden, weight = random(64, 512), random(96, 512, seed=1)
    exact = hidden @ weight.T
    error = (KERNELS.linear(hidden, quantized(weight)) - exact).abs().mean()
    assert error < 0.015 * exact.abs().mean()


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_quantized_table_is_looked_up_in_the_models_dtype(dtype: torch.dtype) -> None:
    table = random(11, 32).to(dtype)
    token_ids = torch.tensor([3, 0, 10, 3])
    rows = KERNELS.embedding(token_ids, quantized(table))
    assert rows.dtype == dtype
    step = table[token_ids].abs().amax(dim=1, keepdim=True) / 127
    assert ((rows - table[token_ids]).abs() <= step * (0.51 + 128 * torch.finfo(dtype).eps)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_the_rows_of_16_bit_products_changes_nothing(dtype: torch.dtype) -> None:
    hidden, weight, bias = random(40, 48).to(dtype), random(24, 48, seed=1).to(dtype), random(24, seed=2).to(dtype)
    expected = functional.linear(hidden.double(), weight.double(), bias.double())
    for rows in (1, 2, 15, 16, 17, 40):
        actual = KERNELS.linear(hidden[:rows], weight, bias)
        assert actual.shape == (rows, 24)
        torch.testing.assert_close(actual.double(), expected[:rows], rtol=2e-2, atol=2e-2)
