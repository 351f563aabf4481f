"""How many variants of each kernel a serving process compiles: few, and none in the midst of serving."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.triton import attention, copy, kv_write
from octavo.layer_groups import FULL, LayerKind, Window, group_layers

NUM_GROUPS, NUM_TABLES, MAX_BLOCKS = 2, 24, 129


@dataclass
class Variants:
    """Stands in for a kernel: notes which of its variants a launch would take on an H100, and runs nothing."""

    kernel: Any
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        function = JITFunction(self.kernel.fn, **self.kernel.kwargs)
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self._bind = create_function_from_signature(function.signature, function.params, backend)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            _, specialization, options = self._bind(*arguments, **constants)
            self.seen.add(repr((specialization, options)))

        return launch


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Variants]:
    """All kernels of the paged layout, noted by name."""
    found = {}
    for module, name in (
        (attention, "attend"),
        (attention, "merge_chunks"),
        (kv_write, "_write_heads"),
        (copy, "_copy"),
    ):
        found[name] = Variants(getattr(module, name))
        monkeypatch.setattr(module, name, found[name])
    return found


def staged(buffer: torch.Tensor, block_tables: torch.Tensor, num_tokens: int, num_rows: int) -> RaggedBatch:
    """A step's arrays one behind the other in a buffer, so that they begin anywhere."""
    sizes = [num_tokens, num_tokens, NUM_GROUPS * num_tokens, num_rows + 1, num_rows, num_rows, num_rows]
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    ids, positions, slots, starts, lens, tables, shared = (buffer[first:end] for first, end in pairwise(ends))
    return RaggedBatch(ids, positions, slots.view(NUM_GROUPS, -1), starts, lens, tables, block_tables, shared=shared)


@pytest.mark.parametrize("cache_dtype", [torch.bfloat16, torch.int8, torch.float8_e4m3fn])
def test_whatever_the_steps_are_few_variants_are_compiled(
    kernels: dict[str, Variants], cache_dtype: torch.dtype
) -> None:
    kinds: list[LayerKind] = [FULL, FULL, Window(1024), Window(1024)]
    shape = CacheShape(4, group_layers(kinds), 16, 8, 128, cache_dtype)
    cache = KVCache(shape, torch.zeros(4, shape.block_bytes, dtype=torch.uint8))
    buffer = torch.zeros(4000, dtype=torch.int64)
    block_tables = torch.zeros(NUM_GROUPS, NUM_TABLES, MAX_BLOCKS, dtype=torch.int64)
    cos_sin = torch.zeros(8, 128)
    qkv = torch.zeros(200, 48 * 128, dtype=torch.bfloat16)
    steps = [(rows, tokens) for rows in (1, 8, 16, 17) for tokens in (rows, rows + 3, 128)]
    for num_rows, num_tokens in steps:
        batch = staged(buffer, block_tables, num_tokens, num_rows)
        for longest, num_shared in product((1, 300, 5000, 1 << 17), (0, attention.LEAST_SHARED)):
            extent = BatchExtent(longest, num_tokens - num_rows + 1, 1, num_shared)
            for layer, kind in enumerate(kinds):
                spec = AttentionSpec(layer, 32, 8, 128, 0.1, kind=kind, cos_sin=cos_sin)
                query = kv_write.write_kv(qkv[:num_tokens], cache, batch, spec)
                attention.paged_attention(query, cache, batch, spec, extent)
        copy.copy_blocks(cache, cache, buffer[num_tokens:][:num_rows], buffer[:num_rows])
    # Of a kind of layer: a program for all chunks of a row, for one, for several, and for a tile of many tokens. Where
    # all is seen, a program for one chunk or several may also serve rows that share it.
    assert {name: len(kernel.seen) for name, kernel in kernels.items()} == {
        "attend": 9,  # a window of 1,024 tokens is seen in too few chunks for several
        "merge_chunks": 1,
        "_write_heads": 1,
        "_copy": 1,
    }
