"""The local executor: a model, or one rank's share of it, its KV cache and its runner in this very process."""

import gc
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from octavo.checkpoints.generation_config import generation_folder
from octavo.checkpoints.locate import locate
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig, PoolingChoice
from octavo.errors import ConfigError, EngineError
from octavo.execution.blas import keep_rows_independent
from octavo.execution.device import resolve_device, resolve_steps_in_flight
from octavo.execution.device_queue import DeviceQueue, queue_of
from octavo.execution.drafts import Drafter
from octavo.execution.estimates import graph_bytes
from octavo.execution.executor import Capabilities, Capacity, ExecutionTimes, LoadedModel, PendingOutput
from octavo.execution.machine import cores, free_memory_bytes
from octavo.execution.model_memory import memory_for
from octavo.execution.model_runner import ModelRunner, RunnerLimits
from octavo.execution.plan import Plan, Task
from octavo.execution.profiling import run_largest_steps
from octavo.execution.sizing import (
    cache_record,
    check_cache_fits,
    check_weights_fit,
    layer_groups_of,
    resolve_max_model_len,
    size_cache,
    size_swap_space,
    warn_of_bounded_length,
)
from octavo.execution.suffix_drafter import SuffixDrafter
from octavo.kernels import Needs, select_kernels
from octavo.kernels.interface import Kernels, Model
from octavo.kernels.packed_weights import PackedWeights
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.config import ModelConfig
from octavo.models.loader import (
    load_model,
    read_config,
    read_forms,
    resolve_cache_dtype,
    resolve_dtype,
    resolve_quantization,
)
from octavo.models.registry import build_model
from octavo.pooling import Pooling
from octavo.sampling.grammars import BUILT_IN, Grammars, ModelTokens
from octavo.structured_outputs import Grammar, ReasoningSection

if TYPE_CHECKING:
    from octavo.tokenization.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_threaded_processes: set[int] = set()
"""Ids of the processes, this one and those that it is a fork of, that have run a model on several threads."""


class LocalExecutor:
    """Loads the model and runs plans on the device, each when it is submitted.

    Args:
        ranks: this process's place among those that run the model together, each in a local executor that is given the
            same plans; rank 0's outputs count. By default it is the only one.
        drafter: guesses tokens, so that a step may give several a row; by default as `--speculate` says.
        grammars: the kinds of grammars that it is to know, as `Grammars` takes them.
        queue: how the device takes its work; by default as it is.
        foretells: whether tokens that a grammar forces are drafts, where the device does not work beside the host.

    Raises:
        ModelError: the model cannot be found, downloaded or read.
        ConfigError: the model, its length or its cache does not fit, and the message names the flag to change; or a
            kind of grammars cannot be imported.
        EngineError: this process is a fork of one whose threads it would wait for.
    """

    sockets: Sequence[int] = ()

    def __init__(
        self,
        config: EngineConfig,
        ranks: TensorParallel | None = None,
        *,
        progress: bool = False,
        drafter: Drafter | None = None,
        grammars: Mapping[str, str] = BUILT_IN,
        queue: DeviceQueue | None = None,
        foretells: bool = True,
    ) -> None:
        ranks = ranks or TensorParallel()
        if config.tensor_parallel_size != ranks.size:
            raise ConfigError(
                f"this command runs the model in one process, and --tensor-parallel-size is "
                f"{config.tensor_parallel_size}: leave it at 1"
            )
        num_threads = threads_of_a_rank(config)
        _check_threads(num_threads)
        torch.set_num_threads(num_threads)
        self._device = device = resolve_device(config, ranks.rank)
        if device.type == "cuda":
            keep_rows_independent()
            torch.cuda.set_device(device)
        queue = queue or queue_of(device)
        self.depth = resolve_steps_in_flight(config, queue)
        config = replace(config, steps_in_flight=self.depth)
        config = resolve_model(config)
        checkpoint = locate(config.model)
        self.model_config = _pooled_as(config.pooling, read_config(checkpoint, generation_folder(config)))
        self._grammars = known = Grammars(
            grammars if self.model_config.eos_token_ids else {},  # an output that conforms has an end
            ModelTokens(
                vocab_size=self.model_config.vocab_size,
                eos_token_ids=frozenset(self.model_config.eos_token_ids),
                load_tokenizer=partial(_load_tokenizer, config),
                num_threads=num_threads,
            ),
        )
        self.dtype = dtype = resolve_dtype(config.dtype, self.model_config)
        cache_dtype = resolve_cache_dtype(config.kv_cache_dtype, dtype)
        quantization = resolve_quantization(config.quantization, checkpoint, self.model_config)
        needs = Needs(device, dtype, cache_dtype, quantization, num_threads)
        self.kernel_choice = select_kernels(needs, config.kernels)
        if self.kernel_choice.is_fallback:
            logger.warning("%s", self.kernel_choice.why)
        kernels = self.kernel_choice.kernels
        max_model_len = resolve_max_model_len(config, self.model_config)
        warn_of_bounded_length(self.model_config)
        build = ModelBuild(dtype, device, kernels, ranks, quantization, max_model_len)
        build = replace(build, forms=read_forms(self.model_config, build, checkpoint, config.load_format))
        self.build = build
        memory = memory_for(config, ranks, device)
        packed = _packed_weights(config, kernels, progress)
        weight_bytes = check_weights_fit(config, self.model_config, build, memory.for_weights(), memory.use)
        unfilled = build_model(self.model_config, build.on_meta())
        layer_groups = layer_groups_of(unfilled, max_model_len)
        record = cache_record(config, self.model_config, layer_groups, cache_dtype)
        most = memory.most_for_cache()
        check_cache_fits(config, self.model_config, layer_groups, cache_dtype, max_model_len, most)
        size_swap_space(config, record, free_memory_bytes())  # for the least cache: a smaller one needs less of it
        model = load_model(
            self.model_config,
            build,
            checkpoint,
            load_format=config.load_format,
            seed=config.seed or 0,
            progress=progress,
            packed=packed,
            model=unfilled,
        )
        captures = queue.runs_ahead and config.cuda_graphs == "auto"
        padding = 1 if captures else 0
        limits = RunnerLimits(
            max_model_len=max_model_len,
            max_num_tokens=config.max_num_batched_tokens,
            max_num_rows=config.max_num_seqs,
            steps_in_flight=self.depth,
            captures=captures,
        )

        def profile() -> None:
            cache = kernels.allocate_cache(replace(record, num_blocks=1 + padding), device)
            run_largest_steps(
                ModelRunner(model, kernels, cache, limits, ranks=ranks, queue=queue), limits, config.max_logprobs
            )

        budget = memory.for_cache(
            profile,
            graph_bytes(config, self.model_config, dtype, max_model_len) if captures else 0,
            packed.mapped_bytes if packed else 0,
        )
        shape = size_cache(config, self.model_config, layer_groups, cache_dtype, max_model_len, budget)
        num_host_free = memory.for_swap_space(shape)
        cache = kernels.allocate_cache(replace(shape, num_blocks=shape.num_blocks + padding), device)
        swap_shape = size_swap_space(config, shape, num_host_free)
        # A device that works beside the host replays steps of a token a row, and drafts make it wait for the host.
        foretells = foretells and not queue.runs_ahead
        if drafter is None and model.has_head and ranks.rank == 0:
            drafter = _drafter(config, queue)
        swap_space = kernels.allocate_cache(swap_shape, torch.device("cpu")) if swap_shape.num_blocks else None
        self._runner: ModelRunner | None = ModelRunner(
            model,
            kernels,
            cache,
            limits,
            swap_space,
            ranks,
            drafter,
            known,
            queue,
            self.model_config.pooling,
            foretells=foretells,
            packed=packed,
        )
        self.capacity = Capacity(
            num_blocks=shape.num_blocks,
            block_size=shape.block_size,
            layer_groups=layer_groups,
            block_bytes=shape.block_bytes * ranks.size,
            num_swap_blocks=swap_shape.num_blocks,
            max_model_len=max_model_len,
            vocab_size=self.model_config.vocab_size,
            max_drafts=0 if drafter is None else drafter.max_drafts,
            foretells=foretells,
            eos_token_ids=frozenset(self.model_config.eos_token_ids),
            capabilities=Capabilities(
                tasks=_tasks_of(model, self.model_config.pooling),
                grammars=known.kinds,
                pooling=self.model_config.pooling,
                embedding_width=self.model_config.pooling.width(self.model_config.hidden_size),
                reasoning=True,
            ),
        )
        self.loaded = LoadedModel(
            weight_bytes=weight_bytes,
            dtype=str(dtype).removeprefix("torch."),
            weights=build.told_weights(),
            kernels=self.kernel_choice.why,
        )

    @property
    def runner(self) -> ModelRunner:
        """What runs the steps.

        Raises:
            EngineError: the executor has been closed.
        """
        if self._runner is None:
            raise EngineError("this engine has been closed")
        return self._runner

    def submit(self, plan: Plan) -> PendingOutput:
        launched = self.runner.launch(plan)
        return PendingOutput(partial(self.runner.collect, launched), launched.ended.is_over)

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[Any]:
        return self._grammars.prepare(wanted)

    def check(self) -> None:
        """Nothing can happen between two steps, but for `close`."""
        _ = self.runner

    def times(self) -> ExecutionTimes:
        return ExecutionTimes(
            parts_s=dict(self.runner.watch.seconds), operations_s=self.runner.forward.seconds_by_operation()
        )

    def close(self) -> None:
        """Drop the weights and the cache; a GPU's memory is free for others."""
        if self._runner is not None:
            # Steps in flight may still write to the swap space, which is the host's.
            self._runner.queue.mark().wait()
        self._runner = None
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _drafter(config: EngineConfig, queue: DeviceQueue) -> Drafter | None:
    """What `--speculate` means here: guesses depend on what the step before gave, so no two are in flight."""
    if config.speculate == "off":
        return None
    if queue.runs_ahead or config.steps_in_flight != 1:
        logger.info("--speculate auto: off, as steps are planned while others run")
        return None
    return SuffixDrafter()


def _pooled_as(choice: PoolingChoice, model_config: ModelConfig) -> ModelConfig:
    """The model's config with the pooling that is chosen for it."""
    if choice == "auto":
        return model_config
    pooling = msgspec.structs.replace(model_config.pooling, kind=choice, is_declared=True)
    return replace(model_config, pooling=pooling)


def _packed_weights(config: EngineConfig, kernels: Kernels, progress: bool) -> PackedWeights | None:
    """Where packed weights are kept from one start to the next; None where they are not."""
    if config.weight_cache == "off":
        return None
    if kernels.packed_form is None:
        logger.warning(
            "--weight-cache %s stays empty: kernels '%s' do not pack weights", config.weight_cache, kernels.name
        )
        return None
    return PackedWeights(Path(config.weight_cache).expanduser(), progress=progress)


def _tasks_of(model: Model, pooling: Pooling) -> frozenset[Task]:
    """What rows may want of a model. One whose head tells classes apart was not trained to embed."""
    told: set[Task] = {"classify"} if pooling.labels else {"embed"}
    return frozenset(told | ({"generate", "score"} if model.has_head else set()))


def _load_tokenizer(config: EngineConfig) -> "Tokenizer":
    from octavo.tokenization.loading import load_tokenizer  # most engines never see a grammar

    return load_tokenizer(config)


def _check_threads(num_threads: int) -> None:
    """Note that this process runs several threads, unless it would wait for ever: a fork believes that it has the
    threads of OpenMP that the other process has started.

    Raises:
        EngineError: it would.
    """
    if num_threads == 1:
        return
    if _threaded_processes - {os.getpid()}:
        raise EngineError(
            f"process {os.getpid()} is a fork of one that has run a model on several threads, and cannot run "
            f'{num_threads} itself: start it with multiprocessing\'s "spawn", or set num_threads to 1'
        )
    _threaded_processes.add(os.getpid())


def threads_of_a_rank(config: EngineConfig) -> int:
    """Threads for the kernels of one process: the machine's, as far as this process may use them, shared out evenly,
    and at least one."""
    return max(1, (config.num_threads or min(torch.get_num_threads(), cores().usable)) // config.tensor_parallel_size)
