"""Triton's small operations, in its interpreter, against the reference."""

import dataclasses
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from kernels.triton.ragged_batches import CPU, Case, Heads, Row
from octavo.kernels.attention import ForwardContext
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.operations import ActivationKind
from octavo.kernels.quantized import QuantizedWeight, quantize_rows
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.reference_attention import CachedVectors, prepare
from octavo.kernels.triton.activation import activation_and_mul
from octavo.kernels.triton.attention import paged_attention
from octavo.kernels.triton.copy import PIECE, copy_blocks, launch_copy
from octavo.kernels.triton.embedding import embedding
from octavo.kernels.triton.kv_write import write_kv
from octavo.kernels.triton.layout import vectors
from octavo.kernels.triton.norm import layer_norm, rms_norm
from octavo.layer_groups import one_group

REFERENCE = ReferenceKernels()
ROUNDING = {torch.float16: 2e-3, torch.float32: 2e-6}
"""About a last bit of numbers up to 4."""


def close(ours: torch.Tensor, theirs: torch.Tensor, *others: torch.dtype) -> None:
    """`others`: what values are rounded to on the way."""
    rounding = max(ROUNDING[dtype] for dtype in (ours.dtype, *others))
    torch.testing.assert_close(ours, theirs, atol=rounding, rtol=rounding, equal_nan=True)


def quantized(weight: torch.Tensor) -> QuantizedWeight:
    own = QuantizedWeight(weight.shape[0], weight.shape[1], CPU, weight.dtype)
    own.values.data, own.scales.data = quantize_rows(weight)
    return own


dtypes = st.sampled_from([torch.float16, torch.float32])


@settings(max_examples=15)
@given(
    heads=st.builds(
        Heads,
        num_kv_heads=st.sampled_from([1, 3]),
        group=st.sampled_from([1, 4]),
        head_dim=st.sampled_from([16, 80]),
        block_size=st.sampled_from([16, 48]),
        dtype=dtypes,
        window=st.sampled_from([None, 20]),
    ),
    rows=st.lists(st.builds(Row, st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=3),
    rotary_dim=st.sampled_from([0, 8, 16]),
    normalises=st.booleans(),
    seed=st.integers(0, 99),
)
def test_new_keys_and_values_are_normalised_rotated_and_written_as_by_the_reference(
    heads: Heads, rows: list[Row], rotary_dim: int, normalises: bool, seed: int
) -> None:
    case = Case(heads, rows, seed)
    angles = torch.outer(torch.arange(100.0), 100.0 ** -torch.linspace(0, 1, max(1, rotary_dim // 2)))
    spec = dataclasses.replace(
        heads.spec,
        cos_sin=torch.cat((angles.cos(), angles.sin()), dim=-1) if rotary_dim else None,
        query_norm=torch.randn(heads.head_dim).to(heads.dtype) if normalises else None,
        key_norm=torch.randn(heads.head_dim) if normalises else None,
        norm_eps=0.1,
    )
    qkv = torch.randn(len(case.query), (spec.num_heads + 2 * spec.num_kv_heads) * heads.head_dim).to(heads.dtype)
    step = ForwardContext(case.reference, case.batch, prepare(case.batch, case.reference))
    expected = REFERENCE.attention(qkv, step, spec)
    attended = paged_attention(write_kv(qkv, case.cache, case.batch, spec), case.cache, case.batch, spec, case.extent)
    close(vectors(case.cache), CachedVectors(case.reference).values.transpose(3, 4))
    torch.testing.assert_close(
        attended.flatten(1), expected, atol=1e-2 if heads.dtype == torch.float16 else 2e-5, rtol=0
    )


@settings(max_examples=25)
@given(
    num_tokens=st.integers(1, 4),
    width=st.sampled_from([16, 576, 1000]),
    dtype=dtypes,
    weight_dtype=dtypes,
    adds=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rms_norm_is_the_references(
    num_tokens: int, width: int, dtype: torch.dtype, weight_dtype: torch.dtype, adds: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden, residual = torch.randn(2, num_tokens, width).to(dtype)
    weight = torch.randn(width).to(weight_dtype)
    arguments = (hidden, weight, 1e-5, residual if adds else None)
    for ours, theirs in zip(rms_norm(*arguments), REFERENCE.rms_norm(*arguments), strict=True):
        close(ours, theirs, weight_dtype)


@settings(max_examples=25)
@given(
    num_tokens=st.integers(0, 4),
    width=st.sampled_from([1, 16, 576, 1000]),
    dtype=dtypes,
    affine=st.sampled_from(["weight and bias", "weight", "neither"]),
    adds=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layer_norm_is_the_references(
    num_tokens: int, width: int, dtype: torch.dtype, affine: str, adds: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden, residual = (torch.randn(2, num_tokens, width) + 3).to(dtype)
    weight = None if affine == "neither" else torch.randn(width).to(dtype)
    bias = torch.randn(width).to(dtype) if affine == "weight and bias" else None
    arguments = (hidden, weight, bias, 1e-5, residual if adds else None)
    for ours, theirs in zip(layer_norm(*arguments), REFERENCE.layer_norm(*arguments), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("stored", ["int8", "as they are"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 33.94])
@pytest.mark.parametrize(("width", "first_id"), [(40, 7), (1500, 0)])
def test_rows_are_looked_up_as_by_the_reference_and_are_zero_on_other_ranks(
    stored: str, dtype: torch.dtype, scale: float, width: int, first_id: int
) -> None:
    table = torch.randn(11, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = quantized(table) if stored == "int8" else table
    ids = torch.tensor([first_id + 3, first_id - 1, first_id + 10, first_id + 11, first_id, 1 << 40])
    for some in (ids, ids[:1], ids[:0]):
        ours = embedding(some, weight, scale, first_id=first_id)
        theirs = REFERENCE.embedding(some, weight, scale, first_id=first_id)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", get_args(ActivationKind))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_activation_and_mul_is_the_references(kind: ActivationKind, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate_up = (3 * torch.randn(3, 2 * 1500)).to(dtype)
    ours, theirs = activation_and_mul(gate_up, kind), REFERENCE.activation_and_mul(gate_up, kind)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=ROUNDING[dtype])


def test_copying_blocks_moves_whole_records_and_nothing_else() -> None:
    shape = CacheShape(6, one_group(3), 16, 2, 80, torch.bfloat16)
    cache = REFERENCE.allocate_cache(shape, CPU)
    cache.records.copy_(torch.randint(0, 256, cache.records.shape, dtype=torch.uint8))
    before = cache.records.clone()
    copy_blocks(cache, cache, torch.tensor([4, 0, 4]), torch.tensor([1, 5, 2]))
    assert torch.equal(cache.records, before[[0, 4, 4, 3, 4, 0]])


def test_a_swap_goes_to_a_cache_with_another_number_of_blocks() -> None:
    shape = CacheShape(6, one_group(1), 16, 1, 16, torch.float16)
    cache = REFERENCE.allocate_cache(shape, CPU)
    cache.records.copy_(torch.randint(0, 256, cache.records.shape, dtype=torch.uint8))
    space = KVCache(dataclasses.replace(shape, num_blocks=2), torch.zeros(2, shape.block_bytes, dtype=torch.uint8))
    copy_blocks(cache, space, torch.tensor([5, 3]), torch.tensor([0, 1]))
    assert torch.equal(space.records, cache.records[[5, 3]])


@settings(max_examples=8)
@given(
    pairs=st.permutations(range(5)), num_programs=st.sampled_from([None, 1, 3, 64]), rest=st.sampled_from([4, 0, 20])
)
def test_moves_between_host_and_device_change_the_records_named_however_the_work_is_shared_out(
    pairs: list[int], num_programs: int | None, rest: int
) -> None:
    """Records of some pieces, the last of them not full."""
    record_bytes = 2 * 4 * PIECE + rest
    device, host = (torch.randint(0, 256, (num, record_bytes), dtype=torch.uint8) for num in (5, 7))
    before = host.clone()
    moved = torch.tensor(pairs[:3])
    launch_copy(host, device, torch.tensor([6, 0, 3]), moved, num_programs)
    assert torch.equal(host[[6, 0, 3]], device[moved])
    assert torch.equal(host[[1, 2, 4, 5]], before[[1, 2, 4, 5]])
