"""The small kernels: bytes that they must read and write a second, and their share of the copy's rate."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from gpu_parts.batches import make_batch, spec_of
from gpu_parts.bench import Bench
from octavo.kernels.triton.kernels import TritonKernels
from octavo.kernels.triton.kv_write import write_kv

KERNELS = TritonKernels()


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Of a model's layer at some numbers of tokens, and copies of blocks."""
    for num_tokens in bench.sizes.operation_tokens:
        yield f"{num_tokens} tokens", _figures(bench, num_tokens)
    cache, count = bench.cache, bench.sizes.copied_blocks
    ids = torch.randperm(cache.shape.num_blocks, device=bench.device)
    source, to = ids[:count], ids[count : 2 * count]
    seconds = bench.seconds([lambda: KERNELS.copy_blocks(cache, cache, source, to)])
    yield f"copy of {count} blocks", bench.figures(seconds, 2 * len(to) * cache.shape.block_bytes)


def _figures(bench: Bench, num_tokens: int) -> dict[str, Any]:
    sizes, device = bench.sizes, bench.device
    hidden, residual = torch.randn(2, num_tokens, sizes.hidden_size, device=device).to(sizes.dtype)
    weight = torch.ones(sizes.hidden_size, device=device, dtype=sizes.dtype)
    gate_up = torch.randn(num_tokens, 2 * sizes.inner_size, device=device).to(sizes.dtype)
    num_rows = min(64, num_tokens)
    num_new = num_tokens // num_rows
    batch, _ = make_batch(bench.cache, [(num_new + 16, num_new)] * num_rows)
    cos_sin = torch.randn(num_new + 16, sizes.head_dim, device=device)
    width = (sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_dim
    qkv = torch.randn(num_tokens, width, device=device).to(sizes.dtype)
    spec = replace(spec_of(sizes, 0), cos_sin=cos_sin)
    table = torch.randn(1 << 10, sizes.hidden_size, device=device).to(sizes.dtype)
    ids = torch.randint(len(table), (num_tokens,), device=device)
    norm_s = bench.seconds([lambda: KERNELS.rms_norm(hidden, weight, 1e-5, residual)] * 8)
    layer_norm_s = bench.seconds([lambda: KERNELS.layer_norm(hidden, weight, weight, 1e-5, residual)] * 8)
    activation_s = bench.seconds([lambda: KERNELS.activation_and_mul(gate_up, "silu")] * 8)
    write_s = bench.seconds([lambda: write_kv(qkv, bench.cache, batch, spec)] * 8)
    embedding_s = bench.seconds([lambda: KERNELS.embedding(ids, table)] * 8)
    return {
        "rms_norm": bench.figures(norm_s, 4 * hidden.nbytes),
        "layer_norm": bench.figures(layer_norm_s, 4 * hidden.nbytes),
        "activation_and_mul": bench.figures(activation_s, gate_up.nbytes * 3 / 2),
        "write_kv": bench.figures(write_s, 2 * qkv.nbytes),
        "embedding": bench.figures(embedding_s, 2 * hidden.nbytes),
    }
