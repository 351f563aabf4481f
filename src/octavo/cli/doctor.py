"""`octavo doctor`: this machine, the kernels chosen and why, and what a model would take of its memory."""

import argparse
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from octavo import __version__
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig

if TYPE_CHECKING:
    import torch

    from octavo.execution.budgets import CacheBudget
    from octavo.execution.machine import Cores
    from octavo.kernels.cache import CacheShape
    from octavo.layer_groups import LayerGroups
    from octavo.layers.build import ModelBuild
    from octavo.models.config import ModelConfig

MIB = 2**20
_SHOWN_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "doctor",
        help="show the machine, the kernels, and the memory a model would take",
        description="Show this machine, the kernels chosen and why, and the memory that a model with these "
        "flags would take. Loads no weights.",
    )
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the report; a model that doesn't fit ends it with the error that names the flag to change.

    Raises:
        OctavoError: the model cannot be found or read, or does not fit.
    """
    config = read_config_flags(arguments, EngineConfig)
    _print_machine(config)
    _print_model(config)


def _print_section(title: str, rows: dict[str, str]) -> None:
    print(title)
    for name, value in rows.items():
        print(f"  {name:<24} {value}")
    print()


def _print_machine(config: EngineConfig) -> None:
    import torch

    from octavo.cli.gpus import gpu_rows, software_rows
    from octavo.execution.local import threads_of_a_rank
    from octavo.execution.machine import cores, free_memory_bytes, processor, total_memory_bytes
    from octavo.kernels import why_not_built

    model_name, features = processor()
    _print_section(
        "Machine",
        {
            "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "processor": model_name,
            "instructions": " ".join(name for name in _SHOWN_FEATURES if name in features) or "portable",
            "cores": _usable(cores()),
            "threads": f"{threads_of_a_rank(config)} for the kernels (--num-threads)"
            + (f" of each of {config.tensor_parallel_size} processes" if config.tensor_parallel_size > 1 else ""),
            "memory": f"{free_memory_bytes() / MIB:,.0f} MiB free of {total_memory_bytes() / MIB:,.0f} MiB",
            **gpu_rows(),
        },
    )
    _print_section(
        "Software",
        {
            "octavo": __version__,
            "torch": torch.__version__,
            **software_rows(),
            "C++ kernels": why_not_built() or _instruction_set(),
        },
    )


def _usable(cores: "Cores") -> str:
    """How many cores can be used, and what keeps the others from it."""
    limits = [f"{cores.in_machine} in the machine"]
    if cores.in_mask < cores.in_machine:
        limits.append(f"{cores.in_mask} in the affinity mask")
    if cores.quota is not None:
        limits.append(f"processor time of {cores.quota:.3g} by a control group's quota")
    return f"{cores.usable} usable: {', '.join(limits)}"


def _instruction_set() -> str:
    from octavo.kernels import _cpu

    return f"built, run in {_cpu.instruction_set()}"


def _print_model(config: EngineConfig) -> None:
    from octavo.checkpoints.folder import has_weights
    from octavo.checkpoints.generation_config import generation_folder
    from octavo.checkpoints.locate import locate
    from octavo.checkpoints.resolve import resolve_model
    from octavo.execution.device import resolve_device
    from octavo.execution.sizing import layer_groups_of, resolve_max_model_len, size_cache, weight_bytes
    from octavo.kernels import Needs, select_kernels
    from octavo.layers.build import ModelBuild
    from octavo.layers.parallel import TensorParallel
    from octavo.models.loader import read_config, read_forms, resolve_cache_dtype, resolve_dtype, resolve_quantization
    from octavo.models.registry import build_model

    checkpoint = locate(resolve_model(config, weights=False).model)
    model = read_config(checkpoint, generation_folder(config))
    dtype = resolve_dtype(config.dtype, model)
    max_model_len = resolve_max_model_len(config, model)
    device = resolve_device(config)
    cache_dtype = resolve_cache_dtype(config.kv_cache_dtype, dtype)
    quantization = resolve_quantization(config.quantization, checkpoint, model)
    choice = select_kernels(Needs(device, dtype, cache_dtype, quantization), config.kernels)
    ranks = TensorParallel(0, config.tensor_parallel_size)
    build = ModelBuild(dtype, device, choice.kernels, ranks, quantization)
    is_here = checkpoint.format == "gguf" or has_weights(checkpoint.path)
    if is_here:
        build = replace(build, forms=read_forms(model, build, checkpoint, config.load_format))
    told = build.told_weights() if is_here or model.packing is None else "as if widened, until its files are here"
    weights = weight_bytes(model, build)
    _print_section(
        f"Model {config.model}",
        {
            "files": str(checkpoint.path),
            "architecture": f"{model.architecture}: {model.num_hidden_layers} layers of {model.hidden_size}, "
            f"{model.num_attention_heads} heads ({model.num_key_value_heads} KV) of {model.head_dim}, "
            f"vocabulary {model.vocab_size}",
            "dtype": f"{str(dtype).removeprefix('torch.')} (--dtype)",
            "longest sequence": f"{max_model_len} tokens (--max-model-len)",
            "weights": f"{weights / MIB:,.1f} MiB (--quantization {config.quantization}{told and f': {told}'})",
            "kernels": choice.why,
        },
    )
    groups = layer_groups_of(build_model(model, build.on_meta()), max_model_len)
    budget = _budget(config, model, build, groups, cache_dtype)
    cache = size_cache(config, model, groups, cache_dtype, max_model_len, budget)
    _print_cache(config, cache, max_model_len, budget.asked)


def _budget(
    config: EngineConfig,
    model: "ModelConfig",
    build: "ModelBuild",
    groups: "LayerGroups",
    cache_dtype: "torch.dtype",
) -> "CacheBudget":
    """What is left for the KV cache; of a GPU it is told what the rest is taken for."""
    from octavo.cli.gpus import memory_rows
    from octavo.execution.budgets import device_budget, device_share, host_budget
    from octavo.execution.estimates import graph_bytes, step_bytes
    from octavo.execution.machine import free_memory_bytes
    from octavo.execution.profiling import CudaMeter, use_before_loading
    from octavo.execution.sizing import cache_record, check_weights_fit, demand_of, resolve_max_model_len

    num_ranks, max_model_len = config.tensor_parallel_size, resolve_max_model_len(config, model)
    if build.device.type == "cpu":
        free = free_memory_bytes()
        return host_budget(config, free - check_weights_fit(config, model, build, free))
    share, use = device_share(config), use_before_loading(CudaMeter(build.device))
    weights = check_weights_fit(config, model, build, max(0, use.room(share)) * num_ranks, use)
    use = replace(
        use,
        weights=weights // num_ranks,
        step=step_bytes(config, model, build.dtype, max_model_len),
        graphs=graph_bytes(config, model, build.dtype, max_model_len) if config.cuda_graphs == "auto" else 0,
    )
    record = cache_record(config, model, groups, cache_dtype)
    full = demand_of(config, groups, max_model_len).of_request(0, max_model_len, 1) * record.block_bytes
    _print_section(f"Memory of {build.device}", memory_rows(use, share, full))
    return device_budget(config, use, use.room(share))


def _print_cache(config: EngineConfig, cache: "CacheShape", max_model_len: int, asked: str) -> None:
    from octavo.execution.sizing import demand_of
    from octavo.memory import BlockDemand, most_at_once

    groups = cache.layer_groups
    demand = demand_of(config, groups, max_model_len)
    block_bytes, num_blocks = cache.block_bytes * config.tensor_parallel_size, cache.num_blocks
    size, num_groups = cache.block_size, cache.num_groups
    token_kib = block_bytes / size / 1024
    short = min(512, max_model_len)

    def at_once(num_tokens: int) -> int:
        return most_at_once(demand, num_tokens, num_blocks, config.max_num_seqs)

    dtype = str(cache.dtype).removeprefix("torch.")
    rows = {"one token": f"{token_kib * num_groups:,.1f} KiB in {dtype} (--kv-cache-dtype)"}
    room = f"room for {num_blocks * size // num_groups:,} tokens"
    if demand.has_windows:
        growing = sum(kind.most_seen is None for kind in groups.kinds)
        held = BlockDemand(size, groups, max_tokens_in_flight=1).of_request(0, max_model_len, 1)
        whole = num_groups * -(-max_model_len // size)
        rows["one token more"] = (
            f"{token_kib * growing:,.1f} KiB once a sequence outgrows the windows: older blocks go back to the pool"
        )
        rows["one sequence"] = (
            f"{held * block_bytes / MIB:,.1f} MiB at {max_model_len} tokens; without windows it would be "
            f"{whole * block_bytes / MIB:,.1f} MiB"
        )
        room += " of sequences within the windows"
    if num_groups > 1:
        rows["layer groups"] = "; ".join(_group_counts(groups, block_bytes))
    _print_section(
        f"KV cache with {asked}",
        rows
        | {
            "one block": f"{block_bytes / 1024:,.1f} KiB for {size} tokens (--block-size)"
            + (" of one layer group" if num_groups > 1 else ""),
            "blocks": f"{num_blocks:,} ({num_blocks * block_bytes / MIB:,.0f} MiB), {room}",
            "sequences": f"{at_once(max_model_len):,} at the full {max_model_len} tokens, "
            f"{at_once(short):,} of {short} tokens (at most {config.max_num_seqs} at once, --max-num-seqs)",
        },
    )


def _group_counts(groups: "LayerGroups", block_bytes: int) -> Iterator[str]:
    """How many groups there are of each kind and number of layers, in words."""
    for (kind, num_layers), count in Counter((group.kind, len(group.layers)) for group in groups.groups).items():
        seen = "all tokens" if kind.most_seen is None else f"the last {kind.most_seen}"
        layers = f"{num_layers} layer{'s' if num_layers > 1 else ''}"
        empty = groups.layers_a_group - num_layers
        empty_kib = block_bytes * empty / groups.layers_a_group / 1024
        padding = f" (and room for {empty} more: {empty_kib:,.1f} KiB of a block are empty)" if empty else ""
        yield f"{count} of {layers} that see {seen}{padding}"
