"""Triton's products with weights of 8 bits, in its interpreter, against the reference."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from kernels.triton.gpu_arithmetic import arithmetic_as_on_a_gpu
from octavo.kernels.quantized import FORMATS, INT8, Format, QuantizedWeight, quantize_rows
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.triton.products import FEW_ROWS, MANY_ROWS, choose_tiling, linear, quantize

CPU = torch.device("cpu")
REFERENCE = ReferenceKernels()


@pytest.fixture(scope="module", autouse=True)
def _fp8() -> Iterator[None]:
    with arithmetic_as_on_a_gpu():
        yield


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantized(weight: torch.Tensor, how: Format) -> QuantizedWeight:
    own = QuantizedWeight(weight.shape[0], weight.shape[1], CPU, weight.dtype, how)
    own.values.data, own.scales.data = quantize_rows(weight, how)
    return own


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    num_rows=st.integers(0, 3),
    width=st.sampled_from([1, 40, 96, 97, 128, 1000]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    seed=st.integers(0, 99),
)
def test_activations_are_quantized_as_by_the_reference_bit_for_bit(
    name: str, num_rows: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    how = FORMATS[name]
    numbers = random(num_rows, width, seed=seed, dtype=dtype)
    numbers[:, ::3] *= 30
    numbers[:, 96:192] = 0
    values, scales = quantize(numbers, how)
    for group, own in enumerate(torch.split(numbers, how.group, 1)):
        expected, expected_scales = quantize_rows(own, how)
        first = group * how.group
        assert torch.equal(values[:, first : first + how.group].float(), expected.float())
        assert torch.equal(scales[group], expected_scales)


def test_halves_are_rounded_to_even() -> None:
    values, scales = quantize(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]), INT8)
    assert scales.tolist() == [[1.0]]
    assert values.tolist() == [[127, 0, 2, 2, 0, -2, -2]]


@settings(max_examples=12)
@given(
    num_rows=st.sampled_from([0, 1, 5, 70]),
    width=st.sampled_from([1, 40, 97, 300]),
    num_outputs=st.sampled_from([1, 33, 150]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    name=st.sampled_from(sorted(FORMATS)),
    has_bias=st.booleans(),
)
def test_products_are_the_references(
    num_rows: int, width: int, num_outputs: int, dtype: torch.dtype, name: str, has_bias: bool
) -> None:
    weight = quantized(random(num_outputs, width, seed=1), FORMATS[name])
    hidden, bias = random(num_rows, width, dtype=dtype), random(num_outputs, dtype=dtype) if has_bias else None
    ours, theirs = linear(hidden, weight, bias), REFERENCE.linear(hidden, weight, bias)
    if name == "int8":
        assert torch.equal(ours, theirs)
    else:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_rows_product_is_the_same_in_every_tile(name: str) -> None:
    weight = quantized(random(50, 200, seed=1), FORMATS[name])
    hidden = random(70, 200, dtype=torch.float16)
    whole = linear(hidden, weight, tiling=MANY_ROWS)
    for rows in (slice(0, 1), slice(7, 9), slice(62, 70)):
        assert torch.equal(linear(hidden[rows], weight, tiling=FEW_ROWS), whole[rows])


def test_large_tiles_are_taken_where_they_fill_a_gpu() -> None:
    assert choose_tiling(64, 128_256, torch.int8) is FEW_ROWS
    assert choose_tiling(256, 4_096, torch.int8) is FEW_ROWS
    assert choose_tiling(256, 28_672, torch.int8) is MANY_ROWS
    assert choose_tiling(4096, 4_096, torch.float32) is FEW_ROWS
    assert choose_tiling(512, 14_336, torch.float16, num_weights=8) is FEW_ROWS
    assert choose_tiling(4096, 14_336, torch.float16, num_weights=8) is MANY_ROWS


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_leaves_no_number_behind(name: str, broken: float) -> None:
    hidden = random(3, 300)
    hidden[1, 120] = broken
    product = linear(hidden, quantized(random(5, 300), FORMATS[name]))
    assert product.isfinite().all(1).tolist() == [True, False, True]
    assert not product[1].isfinite().any()
