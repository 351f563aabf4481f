"""Closed backlogs of ShareGPT-like requests: paged, with contiguous reservations, and in static batches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_parts.bench import Bench
from gpu_parts.models import Served
from gpu_parts.steps import served_8b
from octavo.engine.engine import Engine
from octavo.evaluation.workloads import Work, draw_workload, renewed
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest


def llama_3_8b(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Most of the device's memory for KV."""
    served = served_8b(bench)
    yield "loaded", served.told()
    yield from _measured(bench, served, ("paged", "static batches"))


def llama_2_13b(bench: Bench) -> Iterator[tuple[str, Any]]:
    """As many KV heads as query heads: eight times LLaMA-3-8B's KV."""
    served = bench.served(
        bench.sizes.llama_2_13b,
        kv_cache_memory=bench.sizes.kv_cache_memory,
        max_num_seqs=bench.sizes.max_num_seqs,
        max_num_batched_tokens=bench.sizes.max_num_batched_tokens,
        swap_space=0,
        preemption_mode="recompute",
        prefix_cache_scope="off",
        steps_in_flight=2,
    )
    yield "loaded", served.told()
    yield from _measured(bench, served, ("paged",))


def opt_13b(bench: Bench) -> Iterator[tuple[str, Any]]:
    """The paper's model with the KV memory that its machine left (section 6.2): requests running at a time, and the
    throughput that follows."""
    served = bench.served(
        bench.sizes.opt_13b,
        dtype="auto" if bench.is_toy else "bfloat16",
        kv_cache_memory=bench.sizes.paper_pool_bytes,
        max_num_seqs=min(bench.sizes.num_requests, 512),
        max_num_batched_tokens=bench.sizes.max_num_batched_tokens,
        swap_space=0,
        preemption_mode="recompute",
        prefix_cache_scope="off",
        steps_in_flight=2,
    )
    yield "loaded", served.told()
    told: dict[str, dict[str, Any]] = {}
    for name, figures in _measured(bench, served, ("paged", "contiguous-max", "static batches")):
        told[name] = figures
        yield name, figures
    for name in ("contiguous-max", "static batches"):
        yield f"paged over {name}", {key: _ratio(told, name, key) for key in ("mean_running", "output_tok_s")}


def _ratio(told: dict[str, dict[str, Any]], name: str, key: str) -> float | None:
    """Of the paged one to another; None where that one came to nothing in its time."""
    other = told.get(name, {}).get(key)
    return told["paged"][key] / other if other else None


def _measured(bench: Bench, served: Served, ways: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    sizes, vocab_size = bench.sizes, served.executor.capacity.vocab_size
    drawn = draw_workload("sharegpt", sizes.num_requests, sizes.length_scale, 0)
    _Backlog(served.engine(), renewed(drawn, 99, vocab_size)).run(sizes.warm_up_s)  # compiles, and captures graphs
    for number, way in enumerate(ways):
        window_s = min(sizes.window_s, bench.left_s / (len(ways) - number) - 2)
        work = renewed(drawn, number, vocab_size)
        if way == "static batches":
            yield way, _static(served, work, window_s)
        else:
            yield way, _Backlog(served.engine(kv_allocation=way), work).run(window_s)


def _static(served: Served, work: list[Work], window_s: float) -> dict[str, Any]:
    """As many requests at a time as the memory has room for sequences of the model's length, contiguous; the next ones
    when the last of them is over."""
    capacity = served.executor.capacity
    size = max(1, capacity.num_blocks * capacity.block_size // capacity.max_model_len)
    size = min(size, served.config.max_num_seqs)
    engine = served.engine(kv_allocation="contiguous-max")
    start_s = time.perf_counter()
    total = _Counts()
    for first in range(0, len(work), size):
        left_s = window_s - (time.perf_counter() - start_s)
        if left_s <= 0:
            break
        batch = _Backlog(engine, work[first : first + size], total)
        batch.run(left_s)
    return {"batch": size, **total.figures(len(work))}


@dataclass(slots=True)
class _Counts:
    """Of a run."""

    seconds: float = 0.0
    num_output: int = 0
    num_finished: int = 0
    running_s: float = 0.0
    """Requests that run, times seconds."""
    num_steps: int = 0

    def figures(self, num_requests: int) -> dict[str, Any]:
        """As they are told."""
        return {
            "output_tok_s": self.num_output / self.seconds,
            "mean_running": self.running_s / self.seconds,
            "seconds": self.seconds,
            "steps": self.num_steps,
            "finished": self.num_finished,
            "requests": num_requests,
        }


class _Backlog:
    """Requests that are all there from the start, in an engine that has no others."""

    def __init__(self, engine: Engine, work: list[Work], counts: _Counts | None = None) -> None:
        self._engine, self._work, self._counts = engine, work, counts or _Counts()
        for number, each in enumerate(work):
            params = SamplingParams(temperature=0, max_tokens=each.out, ignore_eos=True)
            engine.add(EngineRequest(str(number), each.ids, params, float(number), number, output_len_hint=each.out))

    def run(self, window_s: float) -> dict[str, Any]:
        """Until all are over, or for so many seconds; what is left is aborted."""
        engine, counts = self._engine, self._counts
        start_s = last_s = time.perf_counter()
        while engine.has_unfinished and last_s - start_s <= window_s:
            for update in engine.step():
                if update.error is not None:
                    raise RuntimeError(update.error)
                counts.num_output += sum(len(each.token_ids) for each in update.sequences)
                counts.num_finished += sum(each.finish_reason is not None for each in update.sequences)
            now_s = time.perf_counter()
            counts.running_s += engine.scheduler.num_running * (now_s - last_s)
            counts.num_steps += 1
            last_s = now_s
        counts.seconds += last_s - start_s
        for number in range(len(self._work)):
            engine.abort(str(number))
        return counts.figures(len(self._work))
