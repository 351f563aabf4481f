#!/usr/bin/env python3
"""Triton's kernels on a CUDA GPU: are they right, and how near to what the device can do.

    python benchmarks/gpu.py --json gpu.json

Needs torch, triton, msgspec, numpy and Octavo's source on PYTHONPATH; no network. The kernels are compared with float64
first. Figures are written after every part, so a run that is cut off still tells something. Head counts and sizes are
LLaMA-3-8B's. Every timed launch is one of 32 layers of a pool of whole records, as in a model, so that no two in a row
read the same bytes.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
import triton.language as tl
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.reference import ReferenceKernels, rotary
from octavo.kernels.triton import attention
from octavo.kernels.triton.activation import activation_and_mul
from octavo.kernels.triton.attention import Tiling, paged_attention
from octavo.kernels.triton.copy import copy_blocks
from octavo.kernels.triton.kernels import TritonKernels
from octavo.kernels.triton.kv_write import write_kv
from octavo.kernels.triton.layout import scales, vectors
from octavo.kernels.triton.norm import rms_norm
from octavo.layer_groups import FULL, LayerKind, Window, one_group

NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, HIDDEN_SIZE, INNER_SIZE = 32, 32, 8, 128, 4096, 14336
BLOCK_SIZE = 16
DTYPE = torch.bfloat16
GIB = 2**30
REFERENCE = ReferenceKernels()


class Bench:
    """What the parts share: the device, its memory for blocks, and the ceilings once they are measured."""

    def __init__(self, pool_gib: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pool_gib = pool_gib
        self.copy_rate = 0.0
        """Bytes a second, those read and those written."""
        self.matrix_rate = 0.0
        """Operations a second."""
        self._cache: KVCache | None = None

    @property
    def cache(self) -> KVCache:
        """Random K and V that fill the pool."""
        if self._cache is None:
            one = CacheShape(1, one_group(NUM_LAYERS), BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM, DTYPE)
            self._cache = make_cache(self.device, self.pool_gib * GIB // one.block_bytes, NUM_LAYERS)
        return self._cache

    def drop_cache(self) -> None:
        """Give the pool's memory back."""
        self._cache = None
        torch.cuda.empty_cache()

    def seconds(self, calls: list[Callable[[], object]], repeats: int = 20) -> float:
        """The median time of one call, in a CUDA graph of all of them: the host's part is not in it."""
        for call in calls:
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        times = []
        for number in range(repeats + 3):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if number >= 3:
                times.append(start.elapsed_time(end) / 1000)
        return statistics.median(times) / len(calls)


def make_cache(
    device: torch.device, num_blocks: int, num_layers: int, dtype: torch.dtype = DTYPE, head_dim: int = HEAD_DIM
) -> KVCache:
    """A cache of random keys and values."""
    shape = CacheShape(num_blocks, one_group(num_layers), BLOCK_SIZE, NUM_KV_HEADS, head_dim, dtype)
    cache = REFERENCE.allocate_cache(shape, device)
    values, own_scales = vectors(cache), scales(cache)
    if own_scales is not None:
        values.random_(-127, 128)
        own_scales.uniform_(0.01, 0.03)
    elif dtype.itemsize == 1:
        values.copy_(torch.randn(values.shape, device=device))
    else:
        values.normal_()
    return cache


def make_batch(cache: KVCache, rows: list[tuple[int, int]]) -> tuple[RaggedBatch, BatchExtent]:
    """A batch of rows (context, new tokens), in blocks scattered over the whole cache."""
    device = cache.records.device
    counts = [-(-context // BLOCK_SIZE) for context, _ in rows]
    ids = torch.randperm(cache.shape.num_blocks, device=device)[: sum(counts)].split(counts)
    table = torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True)
    positions = [torch.arange(context - new, context, device=device) for context, new in rows]
    slots = [own[each // BLOCK_SIZE] * BLOCK_SIZE + each % BLOCK_SIZE for own, each in zip(ids, positions, strict=True)]
    new = torch.tensor([0, *(each for _, each in rows)], device=device)
    batch = RaggedBatch(
        token_ids=torch.cat(positions),
        positions=torch.cat(positions),
        slots=torch.cat(slots).unsqueeze(0),
        query_starts=new.cumsum(0),
        context_lens=torch.tensor([context for context, _ in rows], device=device),
        tables=torch.arange(len(rows), device=device),
        block_tables=table.unsqueeze(0),
    )
    counts_new = [each for _, each in rows]
    return batch, BatchExtent(max(context for context, _ in rows), max(counts_new), min(counts_new))


def spec_of(
    layer: int, head_dim: int = HEAD_DIM, kind: LayerKind = FULL, softcap: float | None = None
) -> AttentionSpec:
    """The attention of one layer."""
    return AttentionSpec(layer, NUM_HEADS, NUM_KV_HEADS, head_dim, head_dim**-0.5, kind=kind, softcap=softcap)


def random_query(batch: RaggedBatch, dtype: torch.dtype = DTYPE, head_dim: int = HEAD_DIM) -> torch.Tensor:
    """Of every token and head."""
    return torch.randn(len(batch.positions), NUM_HEADS, head_dim, device=batch.positions.device).to(dtype)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The norm of the difference over that of what is exact; not a number where ours isn't."""
    return float((ours.double() - exact).norm() / exact.norm())


def exact_attention(query: torch.Tensor, cache: KVCache, batch: RaggedBatch, spec: AttentionSpec) -> torch.Tensor:
    """In float64, a row at a time."""
    values, own_scales = vectors(cache)[:, spec.layer], scales(cache)
    results = []
    for row, context in enumerate(batch.context_lens.tolist()):
        start, end = batch.query_starts[row : row + 2].tolist()
        blocks = batch.block_tables[0, row, : -(-context // BLOCK_SIZE)]
        own = values.view(torch.uint8)[blocks].view(values.dtype).double()
        if own_scales is not None:
            own *= own_scales[blocks, spec.layer].unsqueeze(-1)
        gathered = own.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context]
        keys, seen = gathered.repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=1)
        scores = query[start:end].double().transpose(0, 1) @ keys.transpose(1, 2) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * (scores / spec.softcap).tanh()
        distance = batch.positions[start:end, None] - torch.arange(context, device=query.device)
        unseen = distance < 0
        if spec.kind.most_seen is not None:
            unseen |= distance >= spec.kind.most_seen
        weights = scores.masked_fill(unseen, -torch.inf).softmax(dim=-1)
        results.append((weights @ seen).transpose(0, 1))
    return torch.cat(results)


def device_part(bench: Bench) -> dict[str, Any]:
    """What is measured on."""
    told: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__}
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        told |= {"name": properties.name, "multiprocessors": properties.multi_processor_count}
        told |= {"memory": properties.total_memory, "l2_bytes": properties.L2_cache_size}
    return told


def checks_part(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Each kernel against float64, and attention against itself in other batches, bit for bit."""
    is_cuda = bench.device.type == "cuda"
    dtypes = [torch.bfloat16, torch.float16, torch.float32] if is_cuda else [torch.float16]
    for dtype in dtypes:
        yield str(dtype), operation_checks(bench, dtype)
        for head_dim in (64, 80, 128, 256) if is_cuda else (128,):
            yield f"{dtype}, heads of {head_dim}", attention_checks(bench, dtype, head_dim)
        for cache_dtype in (torch.int8, torch.float8_e4m3fn):
            yield f"{dtype} over {cache_dtype}", attention_checks(bench, dtype, HEAD_DIM, cache_dtype)


def attention_checks(
    bench: Bench, dtype: torch.dtype, head_dim: int, cache_dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Relative errors of attention, and which results are the same in another batch."""
    cache = make_cache(bench.device, 400, 2, cache_dtype or dtype, head_dim)
    rows = [(1, 1), (17, 1), (256, 1), (257, 1), (1000, 1), (900, 4), (300, 5), (512, 512), (700, 100)]
    batch, extent = make_batch(cache, rows)
    query = random_query(batch, dtype, head_dim)
    told: dict[str, Any] = {}
    specs = {"attention": spec_of(1, head_dim)}
    if head_dim == HEAD_DIM and cache_dtype is None:  # each is some seconds of compiling
        specs["attention, window"] = spec_of(1, head_dim, kind=Window(100))
        specs["attention, softcap"] = spec_of(0, head_dim, softcap=3.0)
    for name, spec in specs.items():
        ours = paged_attention(query, cache, batch, spec, extent)
        told[name] = error(ours, exact_attention(query, cache, batch, spec))
        alone = [
            paged_attention(*only(query, cache, batch, row, rows), spec, BatchExtent(*rows[row]))
            for row in range(len(rows))
        ]
        told[f"{name}, alone the same bits"] = torch.equal(torch.cat(alone), ours)
        for limits in ({"MOST_PARTIAL_BYTES": 0}, {"MOST_PROGRAMS": 1}):
            with patch.dict(vars(attention), limits):
                shared_out = paged_attention(query, cache, batch, spec, extent)
            told[f"{name}, with {limits} the same bits"] = torch.equal(shared_out, ours)
    # The last token of a prefill, and the same token decoded.
    prefilled = paged_attention(*only(query, cache, batch, 7, rows), spec_of(1, head_dim), BatchExtent(512, 512))[-1:]
    last = only(query, cache, batch, 7, [*rows[:7], (512, 1)])
    decoded = paged_attention(*last, spec_of(1, head_dim), BatchExtent(512, 1))
    told["decoded as prefilled, the same bits"] = torch.equal(prefilled, decoded)
    told["decoded as prefilled, difference"] = error(decoded, prefilled.double())
    return told


def only(
    query: torch.Tensor, cache: KVCache, batch: RaggedBatch, row: int, rows: list[tuple[int, int]]
) -> tuple[torch.Tensor, KVCache, RaggedBatch]:
    """The last tokens of one row, alone, as many as `rows` says are new."""
    end = int(batch.query_starts[row + 1])
    tokens = slice(end - rows[row][1], end)
    alone = RaggedBatch(
        token_ids=batch.token_ids[tokens],
        positions=batch.positions[tokens],
        slots=batch.slots[:, tokens],
        query_starts=torch.tensor([0, rows[row][1]], device=query.device),
        context_lens=batch.context_lens[row : row + 1],
        tables=batch.tables[row : row + 1],
        block_tables=batch.block_tables,
    )
    return query[tokens], cache, alone


def operation_checks(bench: Bench, dtype: torch.dtype) -> dict[str, Any]:
    """Relative errors of the small kernels."""
    device = bench.device
    hidden, residual = torch.randn(2, 5, HIDDEN_SIZE, device=device).to(dtype)
    weight = torch.randn(HIDDEN_SIZE, device=device).to(dtype)
    normalised, total = rms_norm(hidden, weight, 1e-5, residual)
    exact_total = total.double()
    exact = exact_total * (exact_total.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    gate_up = torch.randn(5, 2 * INNER_SIZE, device=device).to(dtype)
    told = {
        "residual": error(total, hidden.double() + residual.double()),
        "rms_norm": error(normalised, exact),
        "activation_and_mul": error(
            activation_and_mul(gate_up, "silu"), REFERENCE.activation_and_mul(gate_up.double(), "silu")
        ),
    }
    cache = make_cache(device, 40, 2, dtype)
    batch, _ = make_batch(cache, [(100, 100), (40, 1)])
    angles = torch.outer(torch.arange(128.0), 1e4 ** -torch.linspace(0, 1, HEAD_DIM // 2))
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1).to(device)
    spec = AttentionSpec(1, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, 1.0, cos_sin=cos_sin)
    qkv = torch.randn(101, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM, device=device).to(dtype)
    query = write_kv(qkv, cache, batch, spec)
    heads = qkv.double().view(101, -1, HEAD_DIM).split((NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS), dim=1)
    exact_query, exact_key = rotary(heads[0], heads[1], batch.positions, cos_sin.double())
    blocks, offsets = batch.slots[0] // BLOCK_SIZE, batch.slots[0] % BLOCK_SIZE
    told["rotary query"] = error(query, exact_query)
    told["written keys"] = error(vectors(cache)[blocks, 1, 0, :, offsets], exact_key)
    told["written values"] = error(vectors(cache)[blocks, 1, 1, :, offsets], heads[2])
    before = cache.records.clone()
    to, source = torch.arange(10, 20, device=device), torch.arange(9, -1, -1, device=device)
    copy_blocks(cache, cache, source, to)
    before[to] = before[source]
    told["copied blocks are the same"] = torch.equal(cache.records, before)
    space = TritonKernels().allocate_cache(replace(cache.shape, num_blocks=10), torch.device("cpu"))
    there = torch.arange(10, device=device)
    copy_blocks(cache, space, to, there)
    cache.records.zero_()
    copy_blocks(space, cache, there, source)
    told["blocks moved out and back are the same"] = torch.equal(cache.records[source], before[to])
    return told


@triton.jit
def _read_piece(result, memory, places, WORDS: tl.constexpr, PIECE: tl.constexpr):  # noqa: N803
    """Read one piece and write one number for it."""
    place = memory + tl.load(places + tl.program_id(0)) * PIECE
    total = tl.zeros([WORDS], tl.int32)
    for first in tl.static_range(0, PIECE, WORDS):
        total += tl.load(place + first + tl.arange(0, WORDS))
    tl.store(result + tl.program_id(0), tl.sum(total, 0))


def read_rate(bench: Bench, memory: torch.Tensor, places: torch.Tensor, words: int) -> float:
    """Bytes a second of reading pieces of so many words of `memory`, which are numbered."""
    result = torch.empty(len(places), dtype=torch.int32, device=bench.device)
    arguments = {"WORDS": 1024, "PIECE": words, "num_warps": 4}
    read = partial(_read_piece[(len(places),)], result, memory, places, **arguments)
    return 4 * words * len(places) / bench.seconds([read], repeats=10)


def ceilings_part(bench: Bench) -> dict[str, Any]:
    """Copies of 4 GiB, by the runtime and by a kernel of torch: the faster one is what shares are of. Reading alone. A
    product of bfloat16 matrices."""
    source = torch.randint(2**31, (GIB,), dtype=torch.int32, device=bench.device)
    target = torch.empty_like(source)
    copies = [
        bench.seconds([call]) for call in (lambda: target.copy_(source), lambda: torch.add(source, 1, out=target))
    ]
    bench.copy_rate = 2 * source.nbytes / min(copies)
    read = read_rate(bench, source, torch.arange(GIB // 4096, device=bench.device), 4096)
    a, b = torch.randn(2, 8192, 8192, device=bench.device).to(DTYPE)
    bench.matrix_rate = 2 * 8192**3 / bench.seconds([lambda: a @ b] * 4)
    return {
        "copy_gb_s": bench.copy_rate / 1e9,
        "copy_by_runtime_gb_s": 2 * source.nbytes / copies[0] / 1e9,
        "read_gb_s": read / 1e9,
        "matrix_tflop_s": bench.matrix_rate / 1e12,
    }


def scattered_part(bench: Bench) -> dict[str, Any]:
    """Reads of pieces that lie in a row, and of pieces at random places of the whole pool (2 GiB in all)."""
    torch.cuda.empty_cache()
    memory = bench.cache.records.view(torch.int32).flatten()
    told = {}
    for kib in (4, 8, 16, 32, 64):
        words = kib * 256
        num_read = 2 * GIB // (4 * words)
        in_a_row = torch.arange(num_read, device=bench.device)
        scattered = torch.randperm(len(memory) // words, device=bench.device)[:num_read]
        told[f"{kib} KiB"] = {
            "in_a_row_gb_s": read_rate(bench, memory, in_a_row, words) / 1e9,
            "scattered_gb_s": read_rate(bench, memory, scattered, words) / 1e9,
        }
    return told


def decode_part(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Decode attention: bytes of K and V a second, and their share of the copy's rate."""
    for num_rows, context in ((64, 2048), (1, 2048), (8, 2048), (256, 2048), (1, 32768), (64, 200)):
        if num_rows * context * bench.cache.shape.block_bytes // BLOCK_SIZE <= bench.cache.shape.num_bytes:
            yield f"{num_rows} x {context}", decode_figures(bench, bench.cache, num_rows, context)
    alone = make_cache(bench.device, 64 * 2048 // BLOCK_SIZE, 1)
    yield "64 x 2048, records of one layer, close together", decode_figures(bench, alone, 64, 2048)
    for dtype in (torch.int8, torch.float8_e4m3fn):
        narrow = make_cache(bench.device, 64 * 2048 // BLOCK_SIZE, 1, dtype)
        yield f"64 x 2048 over {dtype}, records of one layer", decode_figures(bench, narrow, 64, 2048)


def decode_figures(
    bench: Bench, cache: KVCache, num_rows: int, context: int, tiling: Tiling | None = None
) -> dict[str, float]:
    batch, extent = make_batch(cache, [(context, 1)] * num_rows)
    query = random_query(batch)
    layers = [spec_of(layer % cache.shape.num_layers) for layer in range(NUM_LAYERS)]
    attend = partial(paged_attention, query, cache, batch, extent=extent, few_rows=tiling)
    seconds = bench.seconds([partial(attend, spec=spec) for spec in layers])
    token_bytes = cache.shape.block_bytes / BLOCK_SIZE / cache.shape.num_layers
    rate = num_rows * context * token_bytes / seconds
    return {"us": seconds * 1e6, "gb_s": rate / 1e9, "share": rate / bench.copy_rate}


def prefill_part(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Prefill attention: operations on what is seen a second, and their share of the matrix rate."""
    for name, rows in (
        ("4 x 2048", [(2048, 2048)] * 4),
        ("1 x 8192", [(8192, 8192)]),
        ("512 new of 8192", [(8192, 512)]),
        ("1024 new, beside 63 x 2048 in decode", [(1024, 1024), *[(2048, 1)] * 63]),
    ):
        yield name, prefill_figures(bench, rows)
    for num_rows, length in ((4, 2048), (1, 8192)):
        yield f"{num_rows} x {length}, torch's flash attention on contiguous KV", flash_figures(bench, num_rows, length)


def prefill_figures(bench: Bench, rows: list[tuple[int, int]], tiling: Tiling | None = None) -> dict[str, float]:
    batch, extent = make_batch(bench.cache, rows)
    query = random_query(batch)
    attend = partial(paged_attention, query, bench.cache, batch, extent=extent, many_rows=tiling)
    seconds = bench.seconds([partial(attend, spec=spec_of(layer)) for layer in range(8)], repeats=10)
    seen = float((batch.positions + 1).sum())
    rate = 4 * NUM_HEADS * HEAD_DIM * seen / seconds
    return {"us": seconds * 1e6, "tflop_s": rate / 1e12, "share": rate / bench.matrix_rate}


def flash_figures(bench: Bench, num_rows: int, length: int) -> dict[str, float]:
    sizes = (8, num_rows, NUM_HEADS + 2 * NUM_KV_HEADS, length, HEAD_DIM)
    heads = torch.randn(sizes, device=bench.device, dtype=DTYPE).split((NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS), dim=2)
    attend = partial(scaled_dot_product_attention, is_causal=True, enable_gqa=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        seconds = bench.seconds([partial(attend, *each) for each in zip(*heads, strict=True)], repeats=10)
    rate = 2 * NUM_HEADS * HEAD_DIM * num_rows * length * (length + 1) / seconds
    return {"us": seconds * 1e6, "tflop_s": rate / 1e12, "share": rate / bench.matrix_rate}


def operations_part(bench: Bench) -> Iterator[tuple[str, Any]]:
    """The small kernels: bytes that they must read and write a second, and their share of the copy's rate."""
    for num_tokens in (64, 4096):
        yield f"{num_tokens} tokens", operation_figures(bench, num_tokens)
    cache, words = bench.cache, bench.cache.shape.block_bytes
    ids = torch.randperm(cache.shape.num_blocks, device=bench.device)
    source, to = ids[:512], ids[512:1024]
    seconds = bench.seconds([lambda: copy_blocks(cache, cache, source, to)])
    yield "copy of 512 blocks", figures(bench, seconds, 2 * 512 * words)
    yield "256 blocks and pinned memory", move_figures(bench, ids[:256])


def move_figures(bench: Bench, ids: torch.Tensor) -> dict[str, float]:
    """Bytes a second that a swap moves, each way."""
    cache, there = bench.cache, torch.arange(len(ids), device=bench.device)
    space = TritonKernels().allocate_cache(replace(cache.shape, num_blocks=len(ids)), torch.device("cpu"))
    out_s = bench.seconds([lambda: copy_blocks(cache, space, ids, there)])
    back_s = bench.seconds([lambda: copy_blocks(space, cache, there, ids)])
    num_bytes = len(ids) * cache.shape.block_bytes
    return {"out_gb_s": num_bytes / out_s / 1e9, "back_gb_s": num_bytes / back_s / 1e9}


def operation_figures(bench: Bench, num_tokens: int) -> dict[str, Any]:
    hidden, residual = torch.randn(2, num_tokens, HIDDEN_SIZE, device=bench.device).to(DTYPE)
    weight = torch.ones(HIDDEN_SIZE, device=bench.device, dtype=DTYPE)
    gate_up = torch.randn(num_tokens, 2 * INNER_SIZE, device=bench.device).to(DTYPE)
    batch, _ = make_batch(bench.cache, [(2048, num_tokens // 64)] * 64)
    cos_sin = torch.randn(2048, HEAD_DIM, device=bench.device)
    qkv = torch.randn(num_tokens, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM, device=bench.device).to(DTYPE)
    spec = AttentionSpec(0, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, 1.0, cos_sin=cos_sin)
    norm_s = bench.seconds([lambda: rms_norm(hidden, weight, 1e-5, residual)] * 8)
    activation_s = bench.seconds([lambda: activation_and_mul(gate_up, "silu")] * 8)
    write_s = bench.seconds([lambda: write_kv(qkv, bench.cache, batch, spec)] * 8)
    return {
        "rms_norm": figures(bench, norm_s, 4 * hidden.nbytes),
        "activation_and_mul": figures(bench, activation_s, gate_up.nbytes * 3 // 2),
        "write_kv": figures(bench, write_s, 2 * qkv.nbytes),
    }


def figures(bench: Bench, seconds: float, num_bytes: int) -> dict[str, float]:
    rate = num_bytes / seconds
    return {"us": seconds * 1e6, "gb_s": rate / 1e9, "share": rate / bench.copy_rate}


def sweep_part(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Decode and prefill with other tilings and chunks."""
    decode = [Tiling(16, *each) for each in product((32, 64, 128), (2, 4), (3, 4))]
    yield from sweep("decode", decode, lambda each: decode_figures(bench, bench.cache, 64, 2048, each))
    prefill = [Tiling(rows, *each) for rows in (64, 128) for each in product((32, 64, 128), (rows // 16,), (2, 3))]
    rows = [(2048, 2048)] * 4
    yield from sweep("prefill", prefill, lambda each: prefill_figures(bench, rows, each))


def sweep(
    name: str, tilings: Iterable[Tiling], measure: Callable[[Tiling], dict[str, float]]
) -> Iterator[tuple[str, Any]]:
    for chunk, tiling in product((256, 512), tilings):
        attention.CHUNK = chunk
        told = {"chunk": chunk, **asdict(tiling)}
        try:
            told |= measure(tiling)
        except triton.runtime.errors.OutOfResources as refusal:
            told["error"] = str(refusal)[:100]
        yield f"{name} {chunk} {tuple(asdict(tiling).values())}", told
    attention.CHUNK = 256


def engine_part(bench: Bench) -> Iterator[tuple[str, Any]]:
    """A whole engine; the pool's memory is given back for it. It needs psutil and tqdm besides."""
    from gpu_engine import engine_figures

    if not bench.copy_rate:
        ceilings_part(bench)
    bench.drop_cache()
    yield from engine_figures(bench.device.type, bench.copy_rate)


PARTS: dict[str, Callable[[Bench], Any]] = {
    "device": device_part,
    "checks": checks_part,
    "ceilings": ceilings_part,
    "scattered": scattered_part,
    "decode": decode_part,
    "prefill": prefill_part,
    "operations": operations_part,
    "engine": engine_part,
    "sweep": sweep_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Check and measure Triton's kernels on a CUDA GPU.")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE", help="default: gpu.json")
    parser.add_argument("--pool", type=int, default=64, metavar="GIB", help="memory for blocks (default: 64)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[name for name in PARTS if name != "sweep"])
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not set(arguments.parts) <= {"device", "checks"}:
        parser.error("there is no CUDA GPU: --parts device checks runs without one, with TRITON_INTERPRET=1")
    torch.manual_seed(0)
    bench = Bench(arguments.pool)
    told: dict[str, Any] = {}
    for part in arguments.parts:
        result = PARTS[part](bench)
        told[part] = {}
        for name, figure in result.items() if isinstance(result, dict) else result:
            told[part][name] = figure
            print(part, name, json.dumps(figure), flush=True)
            arguments.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
