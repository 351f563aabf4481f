"""What fits is known before anything is allocated, and said with the flag to change."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution.budgets import host_budget
from octavo.execution.sizing import (
    check_weights_fit,
    resolve_max_model_len,
    size_cache,
    size_swap_space,
    warn_of_bounded_length,
    weight_bytes,
)
from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import Window, one_group
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.loader import load_model
from tiny_checkpoints import TINY_LLAMA

MIB = 2**20
BUILD = ModelBuild(torch.float32, torch.device("cpu"), ReferenceKernels())
MODEL = replace(TINY_LLAMA, vocab_size=90, max_position_embeddings=2**20)
GROUPS = one_group(2)
BLOCK_BYTES = 2 * 2 * 16 * 2 * 8 * 4
"""Keys and values of 2 layers, 16 tokens and 2 heads of 8 float32."""


def loaded_bytes(build: ModelBuild) -> int:
    model = load_model(MODEL, build, None, load_format="dummy")
    tensors = {id(tensor): tensor for m in model.modules() for tensor in (*m.parameters(), *m.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def size(free_bytes: int, kv_cache_memory: str, max_model_len: int = 256, **knobs: Any) -> int:
    """The cache's blocks."""
    config = EngineConfig(kv_cache_memory=kv_cache_memory, **knobs)
    shape = size_cache(config, MODEL, GROUPS, torch.float32, max_model_len, host_budget(config, free_bytes))
    assert shape.block_bytes == BLOCK_BYTES
    return shape.num_blocks


def test_a_model_takes_no_memory_for_positions_that_are_not_served() -> None:
    short = loaded_bytes(replace(BUILD, max_model_len=256))
    assert short == weight_bytes(MODEL, BUILD) + 256 * 8 * 4
    assert loaded_bytes(BUILD) == weight_bytes(MODEL, BUILD) + 2**20 * 8 * 4


@pytest.mark.parametrize("max_model_len", [256, None])
def test_weights_and_table_fit_or_are_refused_to_the_byte(max_model_len: int | None) -> None:
    config = EngineConfig(max_model_len=max_model_len)
    build = replace(BUILD, max_model_len=resolve_max_model_len(config, MODEL))
    needed = loaded_bytes(build)
    assert check_weights_fit(config, MODEL, build, needed) == weight_bytes(MODEL, BUILD)
    with pytest.raises(ConfigError, match=r"weights .* positions \(--max-model-len\) .*--model"):
        check_weights_fit(config, MODEL, build, needed - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_weights_are_counted_with_their_scales(dtype: torch.dtype) -> None:
    build = replace(BUILD, dtype=dtype, quantization="int8", max_model_len=256)
    outputs = 2 * ((4 + 2 + 2) * 8 + 32 + 2 * 56 + 32) + 90
    elements = 2 * ((4 + 2 + 2) * 8 * 32 + 32 * 32 + 3 * 56 * 32) + 90 * 32
    others = 5 * 32 + 90 * 32
    assert weight_bytes(MODEL, build) == elements + 4 * outputs + others * dtype.itemsize
    assert loaded_bytes(build) == weight_bytes(MODEL, build) + 256 * 8 * 4


def test_weights_that_do_not_fit_are_refused_with_what_would_make_them_smaller() -> None:
    config = EngineConfig(max_model_len=256)
    ways = "use --dtype bfloat16 or use --quantization int8 or use --quantization int4 or choose"
    with pytest.raises(ConfigError, match=rf"in float32.* {ways}"):
        check_weights_fit(config, MODEL, BUILD, 1000)
    with pytest.raises(ConfigError, match=r"in int8.* free: use --quantization int4 or choose a smaller model"):
        check_weights_fit(config, MODEL, replace(BUILD, dtype=torch.bfloat16, quantization="int8"), 1000)


def test_more_positions_than_the_model_was_made_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="--max-model-len 1048577 is over the 1048576"):
        resolve_max_model_len(EngineConfig(max_model_len=2**20 + 1), MODEL)


def test_a_dynamic_scaling_serves_the_trained_length_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = replace(MODEL, rope_scaling={"rope_type": "dynamic", "factor": 4.0}, max_position_embeddings=128)
    assert resolve_max_model_len(EngineConfig(), model) == 128
    with pytest.raises(ConfigError, match=r"--max-model-len 129 is over the 128 .*: its rope scaling 'dynamic'"):
        resolve_max_model_len(EngineConfig(max_model_len=129), model)
    warn_of_bounded_length(MODEL)
    assert not caplog.messages
    warn_of_bounded_length(model)
    assert "up to 128 tokens are served" in caplog.text


def test_the_cache_is_what_was_asked_for_in_whole_blocks() -> None:
    assert size(100 * MIB, str(10 * BLOCK_BYTES + 5)) == 10
    assert size(40 * BLOCK_BYTES, "50%") == 20


def test_the_cache_is_no_larger_than_all_sequences_can_use() -> None:
    assert size(100 * MIB, "90%", max_model_len=250, max_num_seqs=3) == 3 * 16


def test_a_window_leaves_the_cache_room_for_blocks_that_only_the_prefix_cache_knows() -> None:
    config = EngineConfig(kv_cache_memory="90%", max_num_seqs=3)
    budget = host_budget(config, 100 * MIB)
    cache = size_cache(config, MODEL, one_group(2, Window(32)), torch.float32, 16_000, budget)
    assert cache.num_blocks == 3 * 1000


def test_more_than_is_free_may_be_asked_for_where_less_can_be_used() -> None:
    assert size(100 * MIB, "30GiB", max_num_seqs=3) == 3 * 16
    assert size(3 * 16 * BLOCK_BYTES, "30GiB", max_num_seqs=3) == 3 * 16


def test_a_cache_that_is_more_than_is_free_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(ConfigError, match=r"--kv-cache-memory 30GiB makes a cache of 16 MiB and only 15 MiB are free"):
        size(15 * MIB, "30GiB", max_model_len=2**16, max_num_seqs=1)
    with pytest.raises(ConfigError, match=r"--kv-cache-memory 10MiB .* only 0 MiB"):
        size(0, "10MiB")


def test_an_int8_cache_has_room_for_its_scales() -> None:
    config = EngineConfig(kv_cache_memory="50%")
    shape = size_cache(config, MODEL, GROUPS, torch.int8, 256, host_budget(config, 100 * BLOCK_BYTES))
    assert shape.block_bytes == BLOCK_BYTES * (8 + 4) // (8 * 4)
    assert shape.num_blocks == 50 * BLOCK_BYTES // shape.block_bytes


def test_memory_flags_are_totals_of_all_ranks() -> None:
    """Two ranks have a KV head each; four hold each head twice."""
    shares = {}
    for ranks in (1, 2, 4):
        config = EngineConfig(kv_cache_memory=str(40 * BLOCK_BYTES), swap_space="100%", tensor_parallel_size=ranks)
        cache = size_cache(config, MODEL, GROUPS, torch.float32, 256, host_budget(config, 50 * BLOCK_BYTES))
        swap = size_swap_space(config, cache, 50 * BLOCK_BYTES - ranks * cache.num_bytes)
        shares[ranks] = (cache.num_kv_heads, cache.block_bytes, cache.num_blocks, swap.num_blocks)
    assert shares == {
        1: (2, BLOCK_BYTES, 40, 10),
        2: (1, BLOCK_BYTES // 2, 40, 10),
        4: (1, BLOCK_BYTES // 2, 20, 5),
    }
    split = replace(BUILD, tensor_parallel=TensorParallel(0, 2), max_model_len=256)
    whole_on_both = 5 * 32 * 4
    assert weight_bytes(MODEL, split) == weight_bytes(MODEL, BUILD) + whole_on_both
    thirds = EngineConfig(tensor_parallel_size=3)
    with pytest.raises(ConfigError, match=r"2 KV heads cannot be split .* over 3 .*they divide by 1, 2$"):
        size_cache(thirds, MODEL, GROUPS, torch.float32, 256, host_budget(thirds, 50 * BLOCK_BYTES))


def test_a_contiguous_pool_is_sized_by_what_is_reserved(caplog: pytest.LogCaptureFixture) -> None:
    """Of 17 blocks for 272 tokens -max reserves 32; -oracle no more than 16 where only 16 are there."""
    assert size(100 * MIB, "30GiB", 272, max_num_seqs=3, kv_allocation="contiguous-max") == 3 * 32
    assert size(100 * MIB, "30GiB", 272, max_num_seqs=3) == 3 * 17
    with pytest.raises(ConfigError, match=r"contiguous-max reserves 32 KV blocks .*31: raise it or lower --max-model"):
        size(100 * MIB, f"{31 * BLOCK_BYTES}", 272, kv_allocation="contiguous-max")
    assert not caplog.records
    assert size(100 * MIB, f"{31 * BLOCK_BYTES}", 272, kv_allocation="contiguous-oracle") == 31
    assert "the KV cache holds 256 tokens" in caplog.text


def test_less_than_a_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="--kv-cache-memory 1KiB is less than one KV block"):
        size(100 * MIB, "1KiB")


def test_a_cache_for_less_than_one_sequence_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert size(100 * MIB, str(4 * BLOCK_BYTES)) == 4
    assert "the KV cache holds 64 tokens" in caplog.text
