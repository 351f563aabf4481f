#!/usr/bin/env python3
"""What windows give back: KV bytes of a long sequence, and how many long sequences one pool runs at once.

    python benchmarks/window_memory.py

Compares the model's own layer groups, whose windows let go of blocks, with one group of all layers, which keeps every
block. The scheduler and the memory are the real ones; no model runs, as its answers change nothing here.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import OctavoError
from octavo.execution.executor import Capacity
from octavo.execution.plan import Plan
from octavo.execution.simulated import SimulatedExecutor
from octavo.knobs import parse_size
from octavo.layer_groups import LayerGroups
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

MIB = 2**20


@dataclass(frozen=True)
class Layout:
    """How the KV of a model's layers lies in blocks."""

    name: str
    groups: LayerGroups
    block_bytes: int


@dataclass(frozen=True)
class Load:
    """What a pool did with more requests than it has room for, averaged over the steps in which some waited."""

    running: float
    most_running: int
    used: float
    """Share of the pool's blocks."""
    preemptions: int


def layouts(config: EngineConfig, max_model_len: int) -> list[Layout]:
    """All layers in one group that keeps every block, and the model's own groups."""
    import torch

    from octavo.checkpoints.locate import locate
    from octavo.execution.sizing import layer_groups_of
    from octavo.kernels.cache import CacheShape
    from octavo.kernels.reference import ReferenceKernels
    from octavo.layer_groups import one_group
    from octavo.layers.build import ModelBuild
    from octavo.models.loader import read_config, resolve_cache_dtype, resolve_dtype
    from octavo.models.registry import build_model

    model = read_config(locate(config.model))
    dtype = resolve_dtype(config.dtype, model)
    groups = layer_groups_of(
        build_model(model, ModelBuild(dtype, torch.device("meta"), ReferenceKernels())), max_model_len
    )
    cache_dtype = resolve_cache_dtype(config.kv_cache_dtype, dtype)
    return [
        Layout(
            name,
            each,
            CacheShape(1, each, config.block_size, model.num_key_value_heads, model.head_dim, cache_dtype).block_bytes,
        )
        for name, each in (("all kept", one_group(model.num_hidden_layers)), ("given back", groups))
    ]


def engine_of(
    layout: Layout,
    config: EngineConfig,
    num_bytes: int,
    max_model_len: int,
    in_step: Callable[[], None] = lambda: None,
) -> Engine:
    """An engine over a pool of so many bytes.

    Args:
        in_step: called in each step, when its blocks are allocated and those it passes are not given back yet.
    """

    def cost_s(plan: Plan) -> float:
        in_step()
        return 0.0

    capacity = Capacity(
        num_blocks=num_bytes // layout.block_bytes,
        block_size=config.block_size,
        layer_groups=layout.groups,
        block_bytes=layout.block_bytes,
        max_model_len=max_model_len,
        vocab_size=50_000,
    )
    return Engine.configured(SimulatedExecutor(capacity, cost_s), config)


def add_request(engine: Engine, number: int, num_tokens: int, num_outputs: int) -> None:
    """Queue one whose prompt begins like no other's."""
    prompt = [number, *range(1, num_tokens - num_outputs)]
    params = SamplingParams(temperature=0, max_tokens=num_outputs, ignore_eos=True)
    engine.add(EngineRequest(str(number), prompt, params, float(number), number))


def held_bytes(
    layout: Layout, config: EngineConfig, num_bytes: int, num_tokens: int, num_outputs: int
) -> tuple[int, int]:
    """KV bytes that a request alone holds when it has all its tokens, and at the most before."""
    held: list[int] = []
    engine = engine_of(
        layout, config, num_bytes, num_tokens, lambda: held.append(engine.scheduler.memory.num_used_blocks)
    )
    add_request(engine, 0, num_tokens, num_outputs)
    while engine.has_unfinished:
        engine.step()
    return held[-1] * layout.block_bytes, max(held) * layout.block_bytes


def load(engine: Engine, num_requests: int, num_tokens: int, num_outputs: int) -> Load:
    """Run requests that all arrive at once."""
    for number in range(num_requests):
        add_request(engine, number, num_tokens, num_outputs)
    memory, running, used = engine.scheduler.memory, list[int](), list[float]()
    while engine.has_unfinished:
        engine.step()
        if engine.scheduler.num_waiting:
            running.append(engine.scheduler.num_running)
            used.append(memory.num_used_blocks / memory.pool.num_blocks)
    return Load(statistics.fmean(running), max(running), statistics.fmean(used), engine.scheduler.num_preemptions)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="KV bytes that a long sequence holds, and how many long sequences one pool runs at once, with the "
        "model's layer groups and with all layers in one. Loads no weights."
    )
    parser.add_argument("--model", default="gemma3", help="default: gemma3")
    parser.add_argument(
        "--tokens", type=int, default=8000, metavar="N", help="of a sequence at its end (default: 8000)"
    )
    parser.add_argument("--output-tokens", type=int, default=500, metavar="N", help="of these (default: 500)")
    parser.add_argument("--requests", type=int, default=256, metavar="N", help="at once, under load (default: 256)")
    parser.add_argument("--pool", default="2GiB", metavar="SIZE", help="memory for the KV cache (default: 2GiB)")
    parser.add_argument(
        "--max-num-batched-tokens", type=int, default=2048, metavar="N", help="budget of a step (default: 2048)"
    )
    arguments = parser.parse_args()
    length, num_outputs = arguments.tokens, arguments.output_tokens
    if not 1 < num_outputs < length or arguments.requests < 1:
        parser.error("--output-tokens must be between 1 and --tokens, and --requests at least 1")
    try:
        config = EngineConfig(model=arguments.model, max_num_batched_tokens=arguments.max_num_batched_tokens)
        num_bytes = parse_size(arguments.pool, 0, "--pool")
        print(f"{'':>10}   a sequence at its end   at the most   running in {arguments.pool}   most   used   preempted")
        for layout in layouts(config, length):
            at_end, most = held_bytes(layout, config, num_bytes, length, num_outputs)
            under = load(engine_of(layout, config, num_bytes, length), arguments.requests, length, num_outputs)
            print(
                f"{layout.name:>10} {at_end / MIB:>19.1f} MiB {most / MIB:>9.1f} MiB"
                f"{under.running:>{14 + len(arguments.pool)}.1f} {under.most_running:>6} {under.used:>6.0%}"
                f"{under.preemptions:>12}"
            )
    except OctavoError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
