"""Attention's kernels by themselves: decode beside the copy's rate, prefill beside the products'."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gpu_parts.batches import Rows, make_batch, make_cache, random_query, spec_of
from gpu_parts.bench import Bench
from octavo.kernels.cache import KVCache
from octavo.kernels.triton import attention
from octavo.kernels.triton.attention import Tiling, paged_attention
from octavo.layer_groups import one_group


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Every timed launch is another layer of a pool of whole records, as in a model, so that no two in a row read the
    same bytes."""
    sizes, shape = bench.sizes, bench.cache.shape
    for num_rows, context in sizes.decode_cases:
        if num_rows * context * shape.block_bytes // shape.block_size <= shape.num_bytes:
            yield f"decode {num_rows} x {context}", decode_figures(bench, bench.cache, num_rows, context)
    num_rows, context = sizes.decode_cases[0]
    num_blocks = num_rows * -(-context // shape.block_size)
    alone = make_cache(bench.device, replace(shape, num_blocks=num_blocks, layer_groups=one_group(1)))
    figures = decode_figures(bench, alone, num_rows, context)
    yield f"decode {num_rows} x {context}, records of one layer, close together", figures
    for dtype in (torch.int8, torch.float8_e4m3fn):
        narrow = make_cache(bench.device, replace(alone.shape, dtype=dtype))
        figures = decode_figures(bench, narrow, num_rows, context)
        yield f"decode {num_rows} x {context} over {dtype}, records of one layer", figures
    for num_rows, num_shared in sizes.sharing_cases:
        told = f"decode {num_rows} rows that share {num_shared} tokens"
        yield told, dict(sharing_figures(bench, num_rows, num_shared))
    for rows in sizes.prefill_cases:
        counts = {row: rows.count(row) for row in dict.fromkeys(rows)}
        told = ", ".join(f"{count} x {new} new of {context}" for (context, new), count in counts.items())
        yield f"prefill {told}", prefill_figures(bench, list(rows))
    for num_rows, length in sizes.flash_cases if bench.is_cuda else ():
        figures = flash_figures(bench, num_rows, length)
        yield f"prefill {num_rows} x {length}, torch's flash attention on contiguous KV", figures


def decode_figures(
    bench: Bench, cache: KVCache, num_rows: int, context: int, tiling: Tiling | None = None
) -> dict[str, float]:
    """Bytes of K and V a second, and their share of the copy's rate."""
    batch, extent = make_batch(cache, [(context, 1)] * num_rows)
    query = random_query(bench.sizes, batch, bench.sizes.dtype)
    layers = [spec_of(bench.sizes, layer % cache.shape.num_layers) for layer in range(bench.sizes.num_layers)]
    attend = partial(paged_attention, query, cache, batch, extent=extent, few_rows=tiling)
    seconds = bench.seconds([partial(attend, spec=spec) for spec in layers])
    token_bytes = cache.shape.block_bytes / cache.shape.block_size / cache.shape.num_layers
    return bench.figures(seconds, num_rows * context * token_bytes)


def sharing_figures(bench: Bench, num_rows: int, num_shared: int) -> Iterator[tuple[str, Any]]:
    """Rows with the same first blocks and one each of their own: shared blocks are read once, or for each row. All that
    each row sees counts as bytes."""
    shape, context = bench.cache.shape, num_shared + bench.cache.shape.block_size
    cache = make_cache(bench.device, replace(shape, num_blocks=num_rows * (context // shape.block_size)))
    batch, extent = make_batch(cache, [(context, 1)] * num_rows)
    batch.block_tables[:, :, :-1] = batch.block_tables[:, :1, :-1].clone()
    shared = torch.full_like(batch.context_lens, num_shared)
    shared[0] = 0
    batch, extent = replace(batch, shared=shared), replace(extent, num_shared=(num_rows - 1) * num_shared)
    query = random_query(bench.sizes, batch, bench.sizes.dtype)
    attend = partial(paged_attention, query, cache, batch, extent=extent)
    specs = [spec_of(bench.sizes, layer % shape.num_layers) for layer in range(bench.sizes.num_layers)]
    layers = [partial(attend, spec=spec) for spec in specs]
    seen_bytes = num_rows * context * shape.block_bytes / shape.block_size / shape.num_layers
    results = []
    for name, least_shared in (("read once", 0), ("read for each", sys.maxsize)):
        with patch.object(attention, "LEAST_SHARED", least_shared):
            yield name, bench.figures(bench.seconds(layers), seen_bytes)
            results.append(layers[0]())
    yield "the same bits", torch.equal(*results)


def prefill_figures(bench: Bench, rows: Rows, tiling: Tiling | None = None) -> dict[str, float]:
    """Operations on what is seen a second, and their share of the products' rate."""
    sizes = bench.sizes
    batch, extent = make_batch(bench.cache, rows)
    query = random_query(sizes, batch, sizes.dtype)
    attend = partial(paged_attention, query, bench.cache, batch, extent=extent, many_rows=tiling)
    layers = [spec_of(sizes, layer) for layer in range(min(8, sizes.num_layers))]
    seconds = bench.seconds([partial(attend, spec=spec) for spec in layers], repeats=10)
    seen = float((batch.positions + 1).sum())
    return bench.product_figures(seconds, 4 * sizes.num_heads * sizes.head_dim * seen)


def flash_figures(bench: Bench, num_rows: int, length: int) -> dict[str, float]:
    """What attention over contiguous memory reaches: the paper's measure for the cost of paging."""
    sizes = bench.sizes
    heads = (sizes.num_heads, sizes.num_kv_heads, sizes.num_kv_heads)
    numbers = torch.randn(8, num_rows, sum(heads), length, sizes.head_dim, device=bench.device, dtype=sizes.dtype)
    attend = partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        layers = zip(*numbers.split(heads, dim=2), strict=True)
        seconds = bench.seconds([partial(attend, *each) for each in layers], repeats=10)
    return bench.product_figures(seconds, 2 * sizes.num_heads * sizes.head_dim * num_rows * length * (length + 1))


def sweep(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Decode and prefill with other tilings and chunks."""
    num_rows, context = bench.sizes.decode_cases[0]
    rows = list(bench.sizes.prefill_cases[0])
    decode = [Tiling(16, *each) for each in product((32, 64, 128), (2, 4), (3, 4))]
    prefill = [Tiling(size, *each) for size in (64, 128) for each in product((32, 64, 128), (size // 16,), (2, 3))]
    if bench.is_toy:
        decode, prefill = decode[:1], prefill[:1]
    yield from _swept("decode", decode, lambda each: decode_figures(bench, bench.cache, num_rows, context, each))
    yield from _swept("prefill", prefill, lambda each: prefill_figures(bench, rows, each))


def _swept(
    name: str, tilings: Iterable[Tiling], measure: Callable[[Tiling], dict[str, float]]
) -> Iterator[tuple[str, Any]]:
    usual = attention.CHUNK
    for chunk, tiling in product((256, 512), tilings):
        attention.CHUNK = chunk
        told: dict[str, Any] = {"chunk": chunk, **asdict(tiling)}
        try:
            told |= measure(tiling)
        except triton.runtime.errors.OutOfResources as refusal:
            told["error"] = str(refusal)[:100]
        yield f"{name} {chunk} {tuple(asdict(tiling).values())}", told
    attention.CHUNK = usual
