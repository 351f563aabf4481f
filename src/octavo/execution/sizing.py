"""What fits: the weights, the KV cache and the longest sequence, computed from the model's config before anything is
allocated."""

import logging
from dataclasses import replace

import torch

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution.budgets import MIB, CacheBudget, DeviceUse
from octavo.execution.machine import check_address_space
from octavo.kernels.cache import CacheShape
from octavo.knobs import parse_size
from octavo.layer_groups import Full, LayerGroups, group_layers
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.memory import Demand, make_demand
from octavo.models.config import ModelConfig
from octavo.models.registry import CausalLM, build_model

logger = logging.getLogger(__name__)

LOADING_BYTES = 64 * MIB
"""Addresses that loading takes beside the weights and their copies."""
UNSTRETCHED = "its rope scaling 'dynamic' would change cached keys as a sequence grows past it"


def weight_bytes(model: ModelConfig, build: ModelBuild) -> int:
    """Bytes that the weights take on all ranks as the build keeps them, counted on the meta device."""
    return _weight_and_table_bytes(model, build)[0]


def _weight_and_table_bytes(model: ModelConfig, build: ModelBuild) -> tuple[int, int]:
    """Bytes of the parameters, and of what is computed from the config beside them; a rank's, times the ranks."""
    size = build.tensor_parallel.size
    modules = build_model(model, build.on_meta())
    weights = sum(parameter.nbytes for _, parameter in modules.named_parameters())
    tables = sum(table.nbytes for module in modules.modules() for table in module.buffers(recurse=False))
    return size * weights, size * tables


def _narrower(build: ModelBuild) -> list[str]:
    """What would keep weights in fewer bits."""
    if build.quantization == "none" or (build.quantization == "auto" and not build.forms):
        return ["--quantization int8", *(["--quantization int4"] if build.kernels.has_grouped_weights else [])]
    return ["--quantization int4"] if build.quantization == "int8" and build.kernels.has_grouped_weights else []


def check_weights_fit(
    config: EngineConfig, model: ModelConfig, build: ModelBuild, free_bytes: int, use: DeviceUse | None = None
) -> int:
    """Refuse a model whose weights and tables alone are more than what is free. Returns the weights' bytes.

    Args:
        free_bytes: on all ranks together.
        use: of a GPU, before loading.

    Raises:
        ConfigError: they are; the message says how much is missing.
    """
    build = replace(build, max_model_len=resolve_max_model_len(config, model))
    weights, tables = _weight_and_table_bytes(model, build)
    if use is None:
        # A weight is there twice while it is converted and packed; the allocator keeps what comes free.
        loading = 2 * weights + tables + LOADING_BYTES
        or_else = f"{', use '.join(['', *_narrower(build)])} or choose a smaller model (--model)"
        check_address_space(loading, f"{config.model} with {weights / MIB:,.0f} MiB of weights", or_else)
    if weights + tables > free_bytes:
        dtype, narrow = str(build.dtype).removeprefix("torch."), build.told_weights()
        stored = f"{dtype} and {narrow}" if build.forms else narrow or dtype
        share = use and use.share_for(-(-(weights + tables) // build.tensor_parallel.size))
        ways = [
            f"raise --gpu-memory-utilization to {share:g}" if share and share > config.gpu_memory_utilization else "",
            "use --dtype bfloat16" if build.dtype.itemsize > 2 else "",
            *(f"use {way}" for way in _narrower(build)),
            "choose a smaller model (--model)",
        ]
        raise ConfigError(
            f"the weights of {config.model} take {weights / MIB:,.0f} MiB in {stored}"
            f", its table of {build.max_model_len} positions (--max-model-len) {tables / MIB:,.0f} MiB, "
            f"and {free_bytes / MIB:,.0f} MiB are free{f' ({use})' if use else ''}: "
            f"{' or '.join(way for way in ways if way)}"
        )
    return weights


def resolve_max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    """The longest sequence to serve.

    Raises:
        ConfigError: more was asked for than the model's positions reach.
    """
    if config.max_model_len is None:
        return model.max_position_embeddings
    if config.max_model_len > model.max_position_embeddings:
        why = f": {UNSTRETCHED}" if _is_unstretched(model) else ""
        raise ConfigError(
            f"--max-model-len {config.max_model_len} is over the {model.max_position_embeddings} tokens "
            f"that {config.model} was made for{why}"
        )
    return config.max_model_len


def warn_of_bounded_length(model: ModelConfig) -> None:
    """Say in the log where sequences end before the length that the model's rotary positions could be stretched to."""
    if _is_unstretched(model):
        logger.warning(
            "sequences of up to %d tokens are served, the length that the model was trained for: %s",
            model.max_position_embeddings,
            UNSTRETCHED,
        )


def _is_unstretched(model: ModelConfig) -> bool:
    return model.rope_scaling is not None and model.rope_scaling["rope_type"] == "dynamic"


def layer_groups_of(model: CausalLM, max_model_len: int) -> LayerGroups:
    """How a model's layers share block tables; a window that no sequence outgrows is none."""
    return group_layers(
        [
            Full(kind.is_causal) if kind.most_seen is not None and kind.most_seen >= max_model_len else kind
            for kind in model.layer_kinds()
        ]
    )


def demand_of(config: EngineConfig, layer_groups: LayerGroups, max_model_len: int) -> Demand:
    """What sequences can come to hold."""
    return make_demand(
        config.kv_allocation,
        config.block_size,
        layer_groups,
        max_model_len=max_model_len,
        max_tokens_in_flight=config.max_num_batched_tokens * (config.steps_in_flight or 1),
    )


def size_cache(
    config: EngineConfig,
    model: ModelConfig,
    layer_groups: LayerGroups,
    dtype: torch.dtype,
    max_model_len: int,
    budget: CacheBudget,
) -> CacheShape:
    """As `check_cache_fits`, and say in the log where no sequence can get as long as the model allows."""
    shape = check_cache_fits(config, model, layer_groups, dtype, max_model_len, budget)
    demand = demand_of(config, layer_groups, max_model_len)
    servable = demand.longest(1, 1, shape.num_blocks, max_model_len)
    if servable < max_model_len:
        needed = shape.block_bytes * config.tensor_parallel_size * demand.of_request(0, max_model_len, 1)
        logger.warning(
            "the KV cache holds %d tokens, so sequences up to that length can be served, not the model's "
            "%d: %s (%d MiB for one sequence of full length)",
            servable,
            max_model_len,
            budget.remedy(needed, "--kv-cache-memory"),
            -(-needed // MIB),
        )
    return shape


def check_cache_fits(
    config: EngineConfig,
    model: ModelConfig,
    layer_groups: LayerGroups,
    dtype: torch.dtype,
    max_model_len: int,
    budget: CacheBudget,
) -> CacheShape:
    """A rank's part of the KV cache of `dtype` that a budget buys for all of them, no more than all sequences at full
    length could fill: blocks behind a window, too, as the prefix cache still finds them.

    Raises:
        ConfigError: this cache is more than is free, less than one block a layer group, or less than what
            `--kv-allocation` reserves for a sequence.
    """
    block = cache_record(config, model, layer_groups, dtype)
    demand = demand_of(config, layer_groups, max_model_len)
    block_bytes = block.block_bytes * config.tensor_parallel_size
    most_filled = config.max_num_seqs * block.num_groups * -(-max_model_len // config.block_size)
    most_useful = max(most_filled, demand.of_request(0, max_model_len, config.max_num_seqs))
    num_blocks = min(budget.wanted_bytes // block_bytes, most_useful)
    if num_blocks < block.num_groups:
        least = "one KV block" if block.num_groups == 1 else f"{block.num_groups} KV blocks, one a layer group,"
        remedy = budget.remedy(block.num_groups * block_bytes)
        raise ConfigError(
            f"{budget.told} is less than {least} of {block_bytes:,} bytes ({config.block_size} tokens): "
            f"{remedy} or lower --block-size"
        )
    if num_blocks * block_bytes > budget.free_bytes:
        raise ConfigError(
            f"{budget.told} makes a cache of {num_blocks * block_bytes / MIB:,.0f} MiB and only "
            f"{budget.free_told}: lower it"
        )
    if demand.longest(1, 1, num_blocks, max_model_len) < 1:
        needed = demand.of_request(1, 1, 1)
        raise ConfigError(
            f"--kv-allocation {config.kv_allocation} reserves {needed} KV blocks for a sequence, and {budget.asked} "
            f"has {num_blocks}: {budget.remedy(needed * block_bytes)} or lower --max-model-len"
        )
    return replace(block, num_blocks=num_blocks)


def cache_record(config: EngineConfig, model: ModelConfig, layer_groups: LayerGroups, dtype: torch.dtype) -> CacheShape:
    """A rank's part of a cache of one block."""
    ranks = TensorParallel(0, config.tensor_parallel_size)
    heads = len(ranks.shard(model.num_key_value_heads, "KV heads", replicate=True))
    return CacheShape(1, layer_groups, config.block_size, heads, model.head_dim, dtype)


def size_swap_space(config: EngineConfig, cache: CacheShape, free_bytes: int) -> CacheShape:
    """A rank's part of the swap space that `--swap-space` buys beside a cache.

    It is never larger than the cache. As nothing new is admitted before all that was moved out is back, more is seldom
    of use; where it is full, a request is recomputed.

    Args:
        free_bytes: of the host's memory, that the cache leaves.

    Raises:
        ConfigError: this is more than is free.
    """
    if config.preemption_mode == "recompute":
        return replace(cache, num_blocks=0)
    block_bytes = cache.block_bytes * config.tensor_parallel_size
    free_bytes = max(0, free_bytes)
    wanted_bytes = parse_size(config.swap_space, free_bytes, "--swap-space", least=0)
    num_blocks = min(wanted_bytes // block_bytes, cache.num_blocks)
    if num_blocks * block_bytes > free_bytes:
        raise ConfigError(
            f"--swap-space {config.swap_space} is {num_blocks * block_bytes / MIB:,.0f} MiB, and beside the KV "
            f"cache {free_bytes / MIB:,.0f} MiB of the host's memory are free: lower it, or --kv-cache-memory"
        )
    if config.preemption_mode == "swap" and num_blocks == 0:
        raise ConfigError(
            f"--preemption-mode swap needs room to swap to, and --swap-space {config.swap_space} is less than one KV "
            f"block of {block_bytes:,} bytes: raise it"
        )
    return replace(cache, num_blocks=num_blocks)
