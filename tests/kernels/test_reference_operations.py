"""The reference kernels' small operations: the cache, block copies, norms, rotary embeddings and activations."""

import dataclasses

import psutil
import pytest
import torch
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.operations import Operations
from octavo.kernels.reference import ReferenceKernels, rotary
from octavo.kernels.reference_attention import prepare
from octavo.layer_groups import one_group
from octavo.models.config import ACTIVATIONS

CPU = torch.device("cpu")
KERNELS = ReferenceKernels()
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def test_every_operation_that_is_declared_has_its_reference() -> None:
    declared = {name for name in vars(Operations) if not name.startswith("_")} - {"record"}
    assert declared <= vars(ReferenceKernels).keys()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8])
def test_a_cache_starts_as_zeros_with_one_contiguous_record_a_block(dtype: torch.dtype) -> None:
    shape = CacheShape(num_blocks=5, layer_groups=one_group(3), block_size=4, num_kv_heads=2, head_dim=8, dtype=dtype)
    records = KERNELS.allocate_cache(shape, CPU).records
    assert records.shape == (5, shape.block_bytes)
    assert records.dtype == torch.uint8
    assert records.is_contiguous()
    assert not records.any()


def test_an_int8_record_counts_a_float32_scale_for_each_vector() -> None:
    vectors = 3 * 2 * 4 * 2
    assert CacheShape(5, one_group(3), 4, 2, 8, torch.int8).block_bytes == vectors * (8 + 4)
    assert CacheShape(5, one_group(3), 4, 2, 8, torch.bfloat16).block_bytes == vectors * 8 * 2


def test_a_cache_takes_no_memory_before_it_is_written() -> None:
    shape = CacheShape(
        num_blocks=1 << 10, layer_groups=one_group(16), block_size=16, num_kv_heads=8, head_dim=64, dtype=torch.bfloat16
    )
    assert shape.num_bytes == 512 << 20
    before = psutil.Process().memory_info().rss
    cache = KERNELS.allocate_cache(shape, CPU)
    assert psutil.Process().memory_info().rss - before < 64 << 20
    assert cache.records[-1].eq(0).all()


def test_copying_blocks_moves_whole_records_and_nothing_else() -> None:
    cache = KERNELS.allocate_cache(CacheShape(6, one_group(3), 4, 2, 8, torch.float32), CPU)
    cache.records.random_(256)
    before = cache.records.clone()
    KERNELS.copy_blocks(cache, cache, torch.tensor([4, 0, 4]), torch.tensor([1, 5, 2]))
    assert torch.equal(cache.records, before[[0, 4, 4, 3, 4, 0]])


def test_swapping_moves_whole_records_between_caches_of_any_length() -> None:
    shape = CacheShape(6, one_group(3), 4, 2, 8, torch.float32)
    cache, space = (
        KERNELS.allocate_cache(shape, CPU),
        KERNELS.allocate_cache(dataclasses.replace(shape, num_blocks=3), CPU),
    )
    cache.records.random_(256)
    before = cache.records.clone()
    KERNELS.copy_blocks(cache, space, torch.tensor([5, 0]), torch.tensor([0, 2]))
    assert torch.equal(cache.records, before)
    assert torch.equal(space.records[[0, 2]], before[[5, 0]])
    assert not space.records[1].any()
    KERNELS.copy_blocks(space, cache, torch.tensor([2, 0]), torch.tensor([0, 1]))
    assert torch.equal(cache.records, before[[0, 5, 2, 3, 4, 5]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_that_of_transformers_llama(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    theirs = LlamaRMSNorm(96, eps=1e-5).to(dtype)
    theirs.weight.data.normal_()
    hidden = (torch.randn(7, 96) * 30).to(dtype)
    normalised, total = KERNELS.rms_norm(hidden, theirs.weight.data, 1e-5)
    assert torch.equal(total, hidden)
    torch.testing.assert_close(normalised, theirs(hidden).detach(), rtol=1e-6, atol=1e-6)


def test_rms_norm_adds_the_residual_first_and_returns_the_sum() -> None:
    hidden, residual, weight = torch.randn(5, 16), torch.randn(5, 16), torch.randn(16)
    normalised, total = KERNELS.rms_norm(hidden, weight, 1e-6, residual)
    assert torch.equal(total, hidden + residual)
    assert torch.equal(normalised, KERNELS.rms_norm(hidden + residual, weight, 1e-6)[0])


def test_rms_norm_of_float64_loses_nothing() -> None:
    hidden = torch.randn(3, 32, dtype=torch.float64)
    expected = hidden / (hidden.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    actual, _ = KERNELS.rms_norm(hidden, torch.ones(32, dtype=torch.float64), 1e-6)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_with_a_float32_weight_is_that_of_transformers_gemma3(dtype: torch.dtype) -> None:
    theirs = Gemma3RMSNorm(96, eps=1e-5).to(dtype)
    theirs.weight.data.normal_()
    hidden = (torch.randn(7, 96) * 30).to(dtype)
    normalised, _ = KERNELS.rms_norm(hidden, 1 + theirs.weight.data.float(), 1e-5)
    assert normalised.dtype == dtype
    torch.testing.assert_close(normalised, theirs(hidden).detach(), rtol=1e-6, atol=1e-6)


def test_attention_normalises_each_query_and_key_head_before_it_rotates_them() -> None:
    norms = torch.rand(2, 8) + 0.5
    angles = torch.rand(3, 4)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=-1)
    plain = AttentionSpec(0, num_heads=4, num_kv_heads=2, head_dim=8, scale=0.5, cos_sin=cos_sin)
    normed = dataclasses.replace(plain, query_norm=norms[0], key_norm=norms[1], norm_eps=0.1)
    heads = torch.randn(3, 8, 8)
    by_hand = heads / (heads.square().mean(-1, keepdim=True) + 0.1).sqrt()
    by_hand = torch.cat([by_hand[:, :4] * norms[0], by_hand[:, 4:6] * norms[1], heads[:, 6:]], dim=1)

    def attend(qkv: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
        cache = KERNELS.allocate_cache(CacheShape(1, one_group(1), 4, 2, 8, torch.float32), CPU)
        own = torch.arange(3)
        batch = RaggedBatch(
            own, own, own.unsqueeze(0), torch.tensor([0, 3]), torch.tensor([3]), own[:1], own[:1].view(1, 1, 1)
        )
        return KERNELS.attention(qkv.flatten(1), ForwardContext(cache, batch, prepare(batch, cache)), spec)

    torch.testing.assert_close(attend(heads, normed), attend(by_hand, plain))
    assert not torch.allclose(attend(heads, normed), attend(heads, plain), atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_is_torchs_of_the_sum_with_the_residual(dtype: torch.dtype) -> None:
    theirs = torch.nn.LayerNorm(24, eps=1e-5).to(dtype)
    theirs.weight.data.normal_()
    theirs.bias.data.normal_()
    hidden, residual = torch.randn(5, 24).to(dtype), torch.randn(5, 24).to(dtype)
    normalised, total = KERNELS.layer_norm(hidden, theirs.weight.data, theirs.bias.data, 1e-5, residual)
    assert torch.equal(total, hidden + residual)
    assert torch.equal(normalised, theirs(total).detach())
    assert torch.equal(KERNELS.layer_norm(total, theirs.weight.data, theirs.bias.data, 1e-5)[0], normalised)


def test_rotary_is_that_of_transformers_llama() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=64)
    query, key = torch.randn(9, 4, 16), torch.randn(9, 2, 16)
    positions = torch.tensor([0, 1, 2, 63, 17, 5, 5, 40, 8])
    table_cos, table_sin = LlamaRotaryEmbedding(config)(query, torch.arange(64)[None])
    cos_sin = torch.cat([table_cos[0, :, :8], table_sin[0, :, :8]], dim=-1)
    actual = rotary(query, key, positions, cos_sin)
    cos, sin = LlamaRotaryEmbedding(config)(query, positions[None])
    expected = apply_rotary_pos_emb(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos, sin)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs[0].transpose(0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_leaves_dimensions_past_the_rotated_ones_alone(dtype: torch.dtype) -> None:
    query, key = torch.randn(3, 2, 10).to(dtype), torch.randn(3, 1, 10).to(dtype)
    angles = torch.rand(8, 3)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=-1)
    rotated, rotated_key = rotary(query, key, torch.tensor([1, 2, 7]), cos_sin)
    assert rotated.dtype == rotated_key.dtype == dtype
    assert torch.equal(rotated[..., 6:], query[..., 6:])
    assert not torch.equal(rotated[..., :6], query[..., :6])


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu", "swish"])
def test_activations_are_those_of_transformers_by_its_names(name: str) -> None:
    hidden = torch.linspace(-9, 9, 301, dtype=torch.float64)
    torch.testing.assert_close(KERNELS.activation(hidden, ACTIVATIONS[name]), ACT2FN[name](hidden), rtol=0, atol=1e-7)


def test_activation_and_mul_gates_the_second_half_by_the_first() -> None:
    gate, up = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    expected = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(KERNELS.activation_and_mul(torch.cat([gate, up], dim=-1), "silu"), expected)


def test_an_embeddings_scale_multiplies_its_rows() -> None:
    table, ids = torch.randn(9, 4), torch.tensor([8, 0, 8])
    torch.testing.assert_close(KERNELS.embedding(ids, table, 3.0), 3 * table[ids])
