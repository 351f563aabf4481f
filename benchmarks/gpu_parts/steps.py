"""Whole steps of an engine with LLaMA-3-8B's shape: decode beside the bytes that it must read, what of it the device is
idle, and prefill beside the rate of products."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_parts.bench import Bench
from gpu_parts.models import Served, num_product_weights
from octavo.engine.engine import Engine
from octavo.evaluation.step_times import measure
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

WARM_UP_STEPS = 5


def served_8b(bench: Bench) -> Served:
    """As the parts of this module and others share it."""
    sizes = bench.sizes
    return bench.served(
        sizes.llama_3_8b,
        kv_cache_memory=sizes.kv_cache_memory,
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=sizes.max_num_batched_tokens,
        swap_space=0,
        preemption_mode="recompute",
        prefix_cache_scope="off",
        steps_in_flight=2,
    )


def decode(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Milliseconds of a step, and the share of the time in which weights and KV could be read at the copy's rate."""
    served, repeats = served_8b(bench), bench.sizes.step_repeats
    yield "loaded", served.told()
    for num_rows, context in bench.sizes.step_cases:
        if not _fits(served, num_rows, context + 2 * repeats):
            yield f"{num_rows} x {context}", "the pool is too small"
            continue
        start_s = time.perf_counter()
        times = measure(served.engine(), num_rows, context, repeats)
        num_bytes = _weight_bytes(served) + num_rows * (context + repeats / 2) * served.kv_token_bytes
        least_ms = 1e3 * num_bytes / bench.copy_rate
        yield (
            f"{num_rows} x {context}",
            {
                "ms": times.total_ms,
                "tok_s": 1e3 * num_rows / times.total_ms,
                "share": least_ms / times.total_ms,
                "parts_ms": times.parts_ms,
                "with_prefill_s": time.perf_counter() - start_s,
            },
        )


def _fits(served: Served, num_rows: int, num_tokens: int) -> bool:
    capacity = served.executor.capacity
    needed = num_rows * (-(-num_tokens // capacity.block_size) + 1)
    return needed <= capacity.num_blocks and num_tokens <= capacity.max_model_len


def _weight_bytes(served: Served) -> int:
    """Of the weights that a step reads: all products' and the last one's."""
    config, itemsize = served.model, getattr(torch, served.executor.loaded.dtype).itemsize
    return itemsize * (num_product_weights(config) + config["vocab_size"] * config["hidden_size"])


def idle(bench: Bench) -> Iterator[tuple[str, Any]]:
    """The share of decode steps in which nothing runs on the device. The profiler slows the host down, so what it saw
    running is held against steps without it, too."""
    served, repeats = served_8b(bench), bench.sizes.step_repeats
    for num_rows, context in bench.sizes.step_cases[1:3]:
        if not _fits(served, num_rows, context + 2 * repeats + num_rows):
            continue
        engine = served.engine()
        _begin_decoding(engine, num_rows, context, 2 * repeats)
        start_s = time.perf_counter()
        _take_steps(engine, repeats)
        step_s = (time.perf_counter() - start_s) / repeats
        activity = ProfilerActivity.CUDA if bench.is_cuda else ProfilerActivity.CPU
        with profile(activities=[activity]) as seen:
            _take_steps(engine, repeats)
            if bench.is_cuda:
                torch.cuda.synchronize()
        for number in range(num_rows):
            engine.abort(str(number))
        kind = DeviceType.CUDA if bench.is_cuda else DeviceType.CPU
        spans = [(each.time_range.start, each.time_range.end) for each in seen.events() if each.device_type == kind]
        busy_s, whole_s = _covered(spans) / 1e6, (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e6
        yield (
            f"{num_rows} x {context}",
            {
                "step_ms": 1e3 * step_s,
                "busy_ms": 1e3 * busy_s / repeats,
                "idle_share": 1 - busy_s / repeats / step_s,
                "idle_share_while_profiled": 1 - busy_s / whole_s,
                "longest_kernels_ms": _longest(seen, repeats),
            },
        )


def _begin_decoding(engine: Engine, num_rows: int, context: int, num_steps: int) -> None:
    """Bring rows to where each takes so many more steps. The first ones decode while the last are prefilled."""
    num_ids = engine.executor.capacity.vocab_size
    max_tokens = num_rows + WARM_UP_STEPS + num_steps + 8
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    for number in range(num_rows):
        prompt = [(number * 7919 + place * 31) % num_ids for place in range(context)]
        engine.add(EngineRequest(str(number), prompt, params, float(number), number))
    while engine.scheduler.num_waiting or not all(request.is_decoding for request in engine.scheduler.running):
        engine.step()
    _take_steps(engine, WARM_UP_STEPS)


def _take_steps(engine: Engine, count: int) -> None:
    for _ in range(count):
        engine.step()


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def _longest(seen: profile, repeats: int) -> dict[str, float]:
    """The kernels that take most of a step."""
    averages = seen.key_averages()
    times = {each.key[:80]: each.self_device_time_total / 1e3 / repeats for each in averages}
    return dict(sorted(times.items(), key=lambda item: -item[1])[:12])


def prefill(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Tokens a second of prompts, and the share of the products' rate that their operations reach."""
    served = served_8b(bench)
    config = served.model
    vocab_size, heads = config["vocab_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    for num_prompts, length in ((1, bench.sizes.prefill_prompts[0][1]), *bench.sizes.prefill_prompts):
        engine = served.engine()
        for number in range(num_prompts):
            prompt = [(number * 104_729 + place * 37 + length) % vocab_size for place in range(length)]
            params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
            engine.add(EngineRequest(str(number), prompt, params, float(number), number))
        start_s = time.perf_counter()
        while engine.has_unfinished:
            engine.step()
        seconds = time.perf_counter() - start_s
        num_tokens = num_prompts * length
        attention = 2 * config["num_hidden_layers"] * heads * head_dim * num_tokens * (length + 1)
        operations = 2 * num_product_weights(config) * num_tokens + attention
        yield (
            f"{num_prompts} x {length}",
            {"s": seconds, "tok_s": num_tokens / seconds, **bench.product_figures(seconds, operations)},
        )
