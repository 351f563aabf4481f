"""Each kernel against float64 or the reference, and attention against itself in other batches, bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import torch

from gpu_parts.batches import Rows, make_batch, make_cache, only, random_query, spec_of
from gpu_parts.bench import Bench
from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.operations import ActivationKind
from octavo.kernels.quantized import FORMATS, QuantizedWeight, quantize_rows
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.reference_attention import prepare
from octavo.kernels.sampling.interface import SamplingBatch
from octavo.kernels.triton import attention
from octavo.kernels.triton.attention import paged_attention
from octavo.kernels.triton.kernels import TritonKernels
from octavo.kernels.triton.layout import scales, vectors
from octavo.layer_groups import Window, one_group
from octavo.sampling.table import SamplingTable
from octavo.sampling_params import SamplingParams

REFERENCE, KERNELS = ReferenceKernels(), TritonKernels()


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Errors are relative: the norm of the difference over that of what is exact; not a number where ours isn't."""
    for dtype in bench.sizes.check_dtypes:
        yield f"operations, {dtype}", dict(_operations(bench, dtype))
        yield f"sampling, {dtype}", dict(_sampling(bench, dtype))
        yield f"whole attention, {dtype}", dict(_whole_attention(bench, dtype))
    for number, dtype in enumerate(bench.sizes.check_dtypes):
        for head_dim in bench.sizes.check_head_dims[: None if number == 0 else 1]:  # each is seconds of compiling
            told = f"attention, {dtype}, heads of {head_dim}"
            yield told, bench.tried(partial(_attention, bench, dtype, head_dim))
        for cache_dtype in (torch.int8, torch.float8_e4m3fn):
            told = f"attention, {dtype} over {cache_dtype}"
            yield told, bench.tried(partial(_attention, bench, dtype, bench.sizes.head_dim, cache_dtype))


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """As above."""
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def _operations(bench: Bench, dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Every operation of the interface, on numbers that have the dtype exactly, beside the reference in float64."""
    width, vocab_size = bench.sizes.hidden_size, 200
    random = partial(torch.randn, device=bench.device)
    hidden, residual = (random(5, width).to(dtype) for _ in range(2))
    weight, bias, matrix = random(width).to(dtype), random(width).to(dtype), random(vocab_size, width).to(dtype)
    ids = torch.tensor([0, 7, vocab_size - 1], device=bench.device)
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {
        "embedding": ("embedding", (ids, matrix, 2.0)),
        "sum": ("add", (hidden, residual)),
        "product": ("linear", (hidden, matrix)),
        "RMS norm": ("rms_norm", (hidden, weight, 1e-5)),
        "residual and RMS norm": ("rms_norm", (hidden, weight, 1e-5, residual)),
        "layer norm": ("layer_norm", (hidden, weight, bias, 1e-5)),
        "residual and layer norm": ("layer_norm", (hidden, weight, bias, 1e-5, residual)),
    }
    for kind in get_args(ActivationKind):
        calls[kind] = ("activation", (hidden, kind))
        calls[f"{kind} and product"] = ("activation_and_mul", (hidden, kind))
    router = random(4, width)
    inner = [random(2 * 48, width).to(dtype) for _ in range(4)]
    outer = [random(width, 48).to(dtype) for _ in range(4)]
    calls["experts"] = ("experts", (hidden, router, inner, outer, 2, "silu"))
    for name, (operation, arguments) in calls.items():
        exact = partial(getattr(REFERENCE, operation), *map(_widened, arguments))
        yield name, bench.tried(partial(_error_of, partial(getattr(KERNELS, operation), *arguments), exact))
    for name, how in FORMATS.items():
        quantized = QuantizedWeight(vocab_size, width, bench.device, dtype, how)
        values, scales = quantize_rows(matrix, how)
        quantized.values.copy_(values)
        quantized.scales.copy_(scales)
        products = (partial(kernels.linear, hidden, quantized) for kernels in (KERNELS, REFERENCE))
        yield f"product, {name}", bench.tried(partial(_error_of, *products))
    yield "copied blocks are the same", bench.tried(partial(_copies_are_exact, bench, dtype))


def _widened(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_widened(each) for each in argument]
    return argument.double() if isinstance(argument, torch.Tensor) and argument.is_floating_point() else argument


def _error_of(call: Callable[[], Any], exact: Callable[[], Any]) -> float:
    """The largest error of what an operation gives."""
    ours, theirs = call(), exact()
    if isinstance(ours, tuple):
        return max(error(*each) for each in zip(ours, theirs, strict=True))
    return error(ours, theirs)


def _copies_are_exact(bench: Bench, dtype: torch.dtype) -> bool:
    sizes = bench.sizes
    shape = CacheShape(40, one_group(2), sizes.block_size, sizes.num_kv_heads, sizes.head_dim, dtype)
    cache = make_cache(bench.device, shape)
    before = cache.records.clone()
    source, to = torch.arange(9, -1, -1, device=bench.device), torch.arange(10, 20, device=bench.device)
    KERNELS.copy_blocks(cache, cache, source, to)
    before[to] = before[source]
    swap_space = KERNELS.allocate_cache(replace(shape, num_blocks=20), torch.device("cpu"))
    KERNELS.copy_blocks(cache, swap_space, source, to)
    KERNELS.copy_blocks(swap_space, cache, to, to + 10)
    before[to + 10] = before[source]
    return torch.equal(cache.records, before)


def _whole_attention(bench: Bench, dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Norms of heads, rotation, KV write and attention in one, a prefill and a step of decode after it, beside the
    reference in the same dtype, for each cache. Triton's interpreter loses a carry in casts to fp8, a GPU does not."""
    sizes = bench.sizes
    angles = torch.outer(torch.arange(256.0), 1e4 ** -torch.linspace(0, 1, sizes.head_dim // 2))
    norm = torch.rand(sizes.head_dim, device=bench.device).to(dtype)
    spec = replace(
        spec_of(sizes, 1), cos_sin=torch.cat((angles.cos(), angles.sin()), dim=-1).to(bench.device),
        query_norm=norm, key_norm=norm, norm_eps=1e-5,
    )  # fmt: skip
    for cache_dtype in (dtype, torch.int8, torch.float8_e4m3fn):
        shape = CacheShape(40, one_group(2), sizes.block_size, sizes.num_kv_heads, sizes.head_dim, cache_dtype)
        name = "own cache" if cache_dtype == dtype else f"{cache_dtype} cache"
        yield name, bench.tried(partial(_two_steps, bench, shape, spec, dtype))


def _two_steps(bench: Bench, shape: CacheShape, spec: AttentionSpec, dtype: torch.dtype) -> float:
    """The larger of the errors of both steps."""
    caches = [kernels.allocate_cache(shape, bench.device) for kernels in (KERNELS, REFERENCE)]
    lengths = (100, 40, 16, 1)
    batch, _ = make_batch(caches[0], [(length + 1, length + 1) for length in lengths])
    worst = 0.0
    for num_new, drop in ((lengths, 1), ((1,) * len(lengths), 0)):
        step = _step_of(batch, lengths, num_new, drop)
        width = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
        qkv = torch.randn(sum(num_new), width, device=bench.device).to(dtype)
        ours = KERNELS.attention(qkv, ForwardContext(caches[0], step, step.extent), spec)
        theirs = REFERENCE.attention(qkv, ForwardContext(caches[1], step, prepare(step, caches[1])), spec)
        worst = max(worst, error(ours, theirs))
    return worst


def _step_of(batch: RaggedBatch, lengths: tuple[int, ...], num_new: tuple[int, ...], drop: int) -> RaggedBatch:
    """The tokens before each row's last (`drop` is 1), or its last alone."""
    ends = batch.query_starts[1:].tolist()
    places = [range(end - drop - new, end - drop) for end, new in zip(ends, num_new, strict=True)]
    tokens = torch.tensor([place for each in places for place in each], device=batch.positions.device)
    assert batch.extent is not None
    return replace(
        batch,
        token_ids=batch.token_ids[tokens],
        positions=batch.positions[tokens],
        slots=batch.slots[:, tokens],
        query_starts=torch.tensor([0, *num_new], device=tokens.device).cumsum(0),
        context_lens=batch.context_lens - drop,
        extent=replace(batch.extent, most_new=max(num_new), fewest_new=min(num_new)),
    )


def _sampling(bench: Bench, dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    """Shares of rows that get the reference's token, computed on the CPU from the same logits."""
    asked = {
        "greedy": SamplingParams(temperature=0),
        "drawn": SamplingParams(temperature=0.8),
        "truncated": SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.01),
        "edited": SamplingParams(temperature=0.8, repetition_penalty=1.1, presence_penalty=0.5, logit_bias={7: 1.0}),
    }
    num_rows = 4 if bench.is_toy else 64
    logits = 4 * torch.randn(num_rows, bench.sizes.llama_3_8b["vocab_size"], device=bench.device).to(dtype)
    for name, params in asked.items():
        yield name, bench.tried(partial(_share_sampled_alike, logits, params))


def _share_sampled_alike(logits: torch.Tensor, params: SamplingParams) -> float:
    theirs = REFERENCE.sample(logits.cpu(), _sampling_batch(params, len(logits))).token_ids
    ours = KERNELS.sample(logits.clone(), _sampling_batch(params, len(logits))).token_ids
    return float((ours.cpu() == theirs).double().mean())


def _sampling_batch(params: SamplingParams, num_rows: int) -> SamplingBatch:
    table, rows = SamplingTable(), np.arange(num_rows)
    for row in range(num_rows):
        table.set_row(row, params, row, 0, [2])
    history = (np.arange(9), np.arange(5))
    return table.plain_batch(rows, []) or table.batch(rows, np.full(num_rows, 5), lambda row, count: history, [])


def _attention(
    bench: Bench, dtype: torch.dtype, head_dim: int, cache_dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Errors of attention, and which results are the same in another batch and cut another way."""
    sizes = bench.sizes
    rows: Rows = list(sizes.check_rows)
    num_blocks = 16 + sum(-(-context // sizes.block_size) for context, _ in rows)
    shape = CacheShape(num_blocks, one_group(2), sizes.block_size, sizes.num_kv_heads, head_dim, cache_dtype or dtype)
    cache = make_cache(bench.device, shape)
    batch, extent = make_batch(cache, rows)
    query = random_query(sizes, batch, dtype, head_dim)
    specs = {"error": spec_of(sizes, 1, head_dim)}
    if head_dim == sizes.head_dim and cache_dtype is None:  # each is some seconds of compiling
        specs["error with a window"] = spec_of(sizes, 1, head_dim, kind=Window(100))
        specs["error with a softcap"] = spec_of(sizes, 0, head_dim, softcap=3.0)
    told: dict[str, Any] = {}
    for name, spec in specs.items():
        together = paged_attention(query, cache, batch, spec, extent)
        told[name] = error(together, _exact_attention(query, cache, batch, spec))
        alone = [_alone(query, cache, batch, row, num_new, spec) for row, (_, num_new) in enumerate(rows)]
        told[f"{name}: alone the same bits"] = torch.equal(torch.cat(alone), together)
        for limit, value in (("MOST_PARTIAL_BYTES", 0), ("MOST_PROGRAMS", 1)):
            with patch.object(attention, limit, value):
                cut_otherwise = paged_attention(query, cache, batch, spec, extent)
            told[f"{name}: with {limit} {value} the same bits"] = torch.equal(cut_otherwise, together)
    longest = max(range(len(rows)), key=lambda row: rows[row][1])
    prefilled = _alone(query, cache, batch, longest, rows[longest][1], specs["error"])[-1:]
    decoded = _alone(query, cache, batch, longest, 1, specs["error"])
    told["decoded as prefilled, the same bits"] = torch.equal(prefilled, decoded)
    told["decoded as prefilled, difference"] = error(decoded, prefilled)
    return told


def _alone(
    query: torch.Tensor, cache: KVCache, batch: RaggedBatch, row: int, num_new: int, spec: AttentionSpec
) -> torch.Tensor:
    """What the last tokens of a row give in a batch of their own."""
    tokens, alone = only(batch, row, num_new)
    assert alone.extent is not None
    return paged_attention(query[tokens], cache, alone, spec, alone.extent)


def _exact_attention(query: torch.Tensor, cache: KVCache, batch: RaggedBatch, spec: AttentionSpec) -> torch.Tensor:
    """In float64, a row at a time."""
    values, own_scales, size = vectors(cache)[:, spec.layer], scales(cache), cache.shape.block_size
    results = []
    for row, context in enumerate(batch.context_lens.tolist()):
        start, end = batch.query_starts[row : row + 2].tolist()
        blocks = batch.block_tables[0, row, : -(-context // size)]
        stored = values.view(torch.uint8)[blocks].view(values.dtype).double()  # torch gathers no fp8
        if own_scales is not None:
            stored *= own_scales[blocks, spec.layer].unsqueeze(-1)
        gathered = stored.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context]
        keys, own = gathered.repeat_interleave(spec.num_heads // spec.num_kv_heads, dim=1)
        scores = query[start:end].double().transpose(0, 1) @ keys.transpose(1, 2) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * (scores / spec.softcap).tanh()
        distance = batch.positions[start:end, None] - torch.arange(context, device=query.device)
        unseen = distance < 0
        if spec.kind.most_seen is not None:
            unseen |= distance >= spec.kind.most_seen
        weights = scores.masked_fill(unseen, -torch.inf).softmax(dim=-1)
        results.append((weights @ own).transpose(0, 1))
    return torch.cat(results)
