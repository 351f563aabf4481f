"""What the parts share: the device, its memory for blocks, a loaded model, the ceilings, and how calls are timed."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu_parts.batches import make_cache
from gpu_parts.models import Served
from gpu_parts.sizes import TOY, Sizes
from octavo.execution.blas import keep_rows_independent
from octavo.kernels.cache import CacheShape, KVCache
from octavo.layer_groups import one_group


class Bench:
    """Handed from part to part."""

    def __init__(self, is_toy: bool, pool_gib: int, stood_in: list[str]) -> None:
        self.is_toy = is_toy
        self.stood_in = stood_in
        self.sizes = TOY if is_toy else Sizes()
        self.device = torch.device("cpu" if is_toy else "cuda")
        self.is_cuda = self.device.type == "cuda"
        self.told: dict[str, dict[str, Any]] = {}
        """What parts have told so far."""
        if self.is_cuda:
            if not torch.cuda.is_available():
                raise RuntimeError(f"torch {torch.__version__} finds no GPU that it can use (--toy runs without one)")
            keep_rows_independent()  # before the first product, as an engine does
        self._pool_bytes = 1 << 18 if is_toy else pool_gib << 30
        self._end_s = 0.0
        self._cache: KVCache | None = None
        self._served: Served | None = None

    def begin(self, limit_s: float, told: dict[str, dict[str, Any]]) -> None:
        """A part begins, which has so long."""
        self._end_s = time.monotonic() + limit_s
        self.told = told
        torch.manual_seed(0)

    @property
    def left_s(self) -> float:
        """Seconds that the part has left."""
        return self._end_s - time.monotonic()

    @property
    def copy_rate(self) -> float:
        """Bytes a second, those read and those written."""
        return self._ceiling("copy_gb_s") * 1e9

    @property
    def matrix_rate(self) -> float:
        """Operations a second, 16 bit."""
        return self._ceiling("matrix_tflop_s") * 1e12

    def _ceiling(self, name: str) -> float:
        if name not in self.told.get("ceilings", {}):
            from gpu_parts import ceilings

            self.told["ceilings"] = dict(ceilings.run(self))
        return float(self.told["ceilings"][name])

    @property
    def cache(self) -> KVCache:
        """Random K and V that fill the pool. A model that is loaded goes."""
        if self._cache is None:
            self.free()
            sizes = self.sizes
            shape = (one_group(sizes.num_layers), sizes.block_size, sizes.num_kv_heads, sizes.head_dim, sizes.dtype)
            num_blocks = self._pool_bytes // CacheShape(1, *shape).block_bytes
            self._cache = make_cache(self.device, CacheShape(num_blocks, *shape))
        return self._cache

    def served(self, config: dict[str, Any], **knobs: Any) -> Served:
        """An engine's executor with random weights of a model's shape; the one of the last call where it is the same.
        The pool's memory is given back for it."""
        if self._served is None or not self._served.is_for(config, knobs):
            self.free()
            self._served = Served(config, self.device.type, knobs)
        return self._served

    def free(self) -> None:
        """Give the memory back."""
        self._cache = None
        if self._served is not None:
            self._served.close()
            self._served = None
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def tried(self, call: Callable[[], Any]) -> Any:
        """What a call gives, or why it fails, so that other checks have their turn.

        Raises:
            RuntimeError: the device is of no use any more.
        """
        try:
            return call()
        except Exception as error:
            if self.is_cuda:
                torch.cuda.synchronize()
            return f"{type(error).__name__}: {error}"[:300]

    def seconds(self, calls: list[Callable[[], object]], repeats: int | None = None) -> float:
        """The median time of one call, in a CUDA graph of all of them: the host's part is not in it."""
        for call in calls:
            call()
        if not self.is_cuda:
            start_s = time.perf_counter()
            for call in calls:
                call()
            return (time.perf_counter() - start_s) / len(calls)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        times = [_replay_s(graph) for _ in range((repeats or self.sizes.repeats) + 3)]
        return statistics.median(times[3:]) / len(calls)

    def figures(self, seconds: float, num_bytes: float) -> dict[str, float]:
        """What a call that moves so many bytes reaches."""
        rate = num_bytes / seconds
        return {"us": seconds * 1e6, "gb_s": rate / 1e9, "share": rate / self.copy_rate}

    def product_figures(self, seconds: float, num_operations: float) -> dict[str, float]:
        """What a call of so many operations reaches."""
        rate = num_operations / seconds
        return {"us": seconds * 1e6, "tflop_s": rate / 1e12, "share": rate / self.matrix_rate}


def _replay_s(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
