"""An executor of a model on a device that isn't there: sized as a real one is, from the config alone."""

from dataclasses import replace

import torch

from octavo.checkpoints.locate import locate
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.simulator.devices import DEVICES, Device
from octavo.evaluation.simulator.model_work import count_work
from octavo.evaluation.simulator.step_model import StepModel
from octavo.execution.budgets import CacheBudget, DeviceUse, device_budget, device_share, host_budget
from octavo.execution.estimates import graph_bytes, step_bytes
from octavo.execution.executor import Capacity, LoadedModel
from octavo.execution.simulated import SimulatedExecutor
from octavo.execution.sizing import (
    cache_record,
    check_weights_fit,
    layer_groups_of,
    resolve_max_model_len,
    size_cache,
    size_swap_space,
    weight_bytes,
)
from octavo.kernels import Needs, select_kernels
from octavo.kernels.interface import Kernels
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.config import ModelConfig
from octavo.models.loader import read_config, read_forms, resolve_cache_dtype, resolve_dtype, resolve_quantization
from octavo.models.registry import build_model

META = torch.device("meta")
RANKS = (1, 2, 4, 8, 16)
LEAST_ROOM = 1.1
"""Times its weights, that a model is said to fit into: some is for steps, and for a KV cache."""


class _GpuKernels(ReferenceKernels):
    """As the kernels of GPUs, which hold no weights in fewer than 8 bits."""

    has_grouped_weights = False


def precision_of(build: ModelBuild) -> str:
    """The precision of the weights that products read, as devices call it."""
    return build.told_weights() or str(build.dtype).removeprefix("torch.")


def simulated_executor(config: EngineConfig, device: Device) -> SimulatedExecutor:
    """An executor that takes a device's times for the config's model, and has its memory.

    Raises:
        OctavoError: the model's config cannot be read, or the model does not fit; the message says what would.
    """
    config = resolve_model(config, weights=False)
    checkpoint = locate(config.model)
    model = read_config(checkpoint)
    dtype = resolve_dtype(config.dtype, model)
    cache_dtype = resolve_cache_dtype(config.kv_cache_dtype, dtype)
    quantization = resolve_quantization(config.quantization, checkpoint, model)
    depth = config.steps_in_flight or (2 if device.is_gpu else 1)
    config = replace(config, steps_in_flight=depth)
    max_model_len = resolve_max_model_len(config, model)
    kernels: Kernels = _GpuKernels()
    if not device.is_gpu:
        needs = Needs(torch.device("cpu"), dtype, cache_dtype, quantization, 1)
        kernels = select_kernels(needs, "auto").kernels
    ranks = TensorParallel(0, config.tensor_parallel_size)
    build = ModelBuild(dtype, META, kernels, ranks, quantization, max_model_len)
    build = replace(build, forms=read_forms(model, build, checkpoint, config.load_format))
    layer_groups = layer_groups_of(build_model(model, build), max_model_len)
    record = cache_record(config, model, layer_groups, cache_dtype)
    work = count_work(model, build, record)
    budget = _budget(config, model, build, device, max_model_len)
    shape = size_cache(config, model, layer_groups, cache_dtype, max_model_len, budget)
    swap_shape = size_swap_space(config, shape, _host_free(device, budget, shape.num_bytes * ranks.size))
    capacity = Capacity(
        num_blocks=shape.num_blocks,
        block_size=shape.block_size,
        layer_groups=layer_groups,
        block_bytes=shape.block_bytes * ranks.size,
        num_swap_blocks=swap_shape.num_blocks,
        max_model_len=max_model_len,
        vocab_size=model.vocab_size,
    )
    loaded = LoadedModel(
        weight_bytes=weight_bytes(model, build),
        dtype=str(dtype).removeprefix("torch."),
        weights=build.told_weights(),
        kernels=f"Simulated: {device.name} ({device.source})",
    )
    return SimulatedExecutor(capacity, StepModel(work, device, precision_of(build)), depth, loaded)


def longest_of(config: EngineConfig) -> int:
    """The longest sequence that the config's model serves, in tokens.

    Raises:
        OctavoError: as `simulated_executor`.
    """
    config = resolve_model(config, weights=False)
    return resolve_max_model_len(config, read_config(locate(config.model)))


def another(executor: SimulatedExecutor) -> SimulatedExecutor:
    """A new executor like one that has been used."""
    return SimulatedExecutor(executor.capacity, executor.cost, executor.depth, executor.loaded)


def _budget(
    config: EngineConfig, model: ModelConfig, build: ModelBuild, device: Device, max_model_len: int
) -> CacheBudget:
    """What the device's memory leaves for the KV cache."""
    if not device.is_gpu:
        weights = check_weights_fit(config, model, build, device.memory_bytes)
        return host_budget(config, device.memory_bytes - weights)
    use = DeviceUse(total=device.memory_bytes, others=0)
    free_bytes = max(0, use.room(device_share(config))) * build.tensor_parallel.size
    try:
        weights = check_weights_fit(config, model, build, free_bytes, use)
    except ConfigError as error:
        raise ConfigError(f"{error}. {_told_fits(config, model, build, device)}") from error
    use = replace(
        use,
        weights=weights // build.tensor_parallel.size,
        step=step_bytes(config, model, build.dtype, max_model_len),
        graphs=graph_bytes(config, model, build.dtype, max_model_len) if config.cuda_graphs == "auto" else 0,
    )
    return device_budget(config, use, use.room(device_share(config)))


def _told_fits(config: EngineConfig, model: ModelConfig, build: ModelBuild, device: Device) -> str:
    """On which GPUs the weights would fit, the device's own kind first."""
    needed = LEAST_ROOM * weight_bytes(model, replace(build, tensor_parallel=TensorParallel()))
    fits = []
    for each in (device, *(other for other in DEVICES.values() if other.is_gpu and other.name != device.name)):
        room = each.memory_bytes * device_share(config)
        sizes = [size for size in RANKS if model.num_attention_heads % size == 0 and size * room > needed]
        if sizes:
            fits.append(f"{sizes[0]} x {each.name}")
    return (
        f"It fits on {', '.join(fits)} (--device, --tensor-parallel-size)" if fits else "It fits on none that is known"
    )


def _host_free(device: Device, budget: CacheBudget, cache_bytes: int) -> int:
    """Of the host's memory, what a swap space can take beside the cache."""
    return device.host_memory_bytes if device.is_gpu else budget.free_bytes - cache_bytes
