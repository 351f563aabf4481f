"""A preemption by swap beside one by recompute, by block size (paper, section 7.3 and figure 19)."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from gpu_parts.bench import Bench
from gpu_parts.models import Served
from gpu_parts.steps import served_8b
from octavo.kernels.cache import CacheShape
from octavo.kernels.triton.kernels import TritonKernels
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

REPEATS = 7


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Milliseconds for one sequence of LLaMA-3-8B's shape: its tokens computed again by the engine, and its blocks,
    scattered over a cache, moved to pinned memory and back by one call of the kernels each."""
    served, num_tokens = served_8b(bench), bench.sizes.swap_tokens
    yield "tokens", num_tokens
    yield "recompute_ms", _recompute_ms(served, num_tokens)
    for block_size in bench.sizes.swap_block_sizes:
        yield f"blocks of {block_size}", _swap_ms(bench, served, block_size, num_tokens)


def _recompute_ms(served: Served, num_tokens: int) -> float:
    engine, vocab_size = served.engine(), served.executor.capacity.vocab_size
    times_s = []
    for repeat in range(REPEATS + 1):
        prompt = [(104_729 * repeat + 41 * place) % vocab_size for place in range(num_tokens)]
        engine.add(EngineRequest(str(repeat), prompt, SamplingParams(temperature=0, max_tokens=1), 0.0, repeat))
        start_s = time.perf_counter()
        while engine.has_unfinished:
            engine.step()
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * statistics.median(times_s[1:])


def _swap_ms(bench: Bench, served: Served, block_size: int, num_tokens: int) -> dict[str, Any]:
    kernels, own = TritonKernels(), served.executor.runner.cache.shape
    num_blocks = -(-num_tokens // block_size)
    shape = CacheShape(4 * num_blocks, own.layer_groups, block_size, own.num_kv_heads, own.head_dim, own.dtype)
    cache = kernels.allocate_cache(shape, bench.device)
    space = kernels.allocate_cache(replace(shape, num_blocks=2 * num_blocks), torch.device("cpu"))
    blocks = torch.randperm(shape.num_blocks)[:num_blocks].to(bench.device)
    places = torch.randperm(2 * num_blocks)[:num_blocks].to(bench.device)
    out_ms = _median_ms(bench, lambda: kernels.copy_blocks(cache, space, blocks, places))
    in_ms = _median_ms(bench, lambda: kernels.copy_blocks(space, cache, places, blocks))
    num_bytes = num_blocks * shape.block_bytes
    return {
        "block_bytes": shape.block_bytes,
        "out_ms": out_ms,
        "in_ms": in_ms,
        "out_gb_s": num_bytes / out_ms / 1e6,
        "in_gb_s": num_bytes / in_ms / 1e6,
    }


def _median_ms(bench: Bench, call: Callable[[], object]) -> float:
    times_s = []
    for _ in range(REPEATS + 1):
        start_s = time.perf_counter()
        call()
        if bench.is_cuda:
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * statistics.median(times_s[1:])
