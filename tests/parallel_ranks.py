"""Runs a check in processes joined by gloo. The checks live here, as a child imports them by name."""

import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from octavo.kernels.cpu import CpuKernels
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.layers.embedding import VocabParallelEmbedding
from octavo.layers.head import ParallelLMHead
from octavo.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.parallel import TensorParallel
from octavo.layers.placement import Placements
from ragged_model import RaggedModel

CPU = torch.device("cpu")


def on_ranks(size: int, check: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `check(tensor_parallel, *arguments)` on all ranks; the failure of one is raised here."""
    rendezvous = folder / f"rendezvous-{size}-{check.__name__}"
    ranks = [_process(rank) for rank in range(size)]
    for rank, pipe in enumerate(ranks):
        pipe.send((rank, size, check, str(rendezvous), arguments))
    failures = [failure for pipe in ranks if (failure := pipe.recv()) is not None]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


@cache
def _process(rank: int) -> "Connection[Any, Any]":
    """A process that is this rank in every check of the tests: its imports are most of what a check costs."""
    ours, theirs = Pipe()
    get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()
    return ours


def _serve(pipe: "Connection[Any, Any]") -> None:
    torch.set_num_threads(1)
    while True:
        pipe.send(_failure(*pipe.recv()))


def _failure(
    rank: int, size: int, check: Callable[..., None], rendezvous: str, arguments: tuple[Any, ...]
) -> str | None:
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    try:
        with torch.inference_mode():
            check(TensorParallel(rank, size), *arguments)
    except Exception:
        return f"rank {rank} of {size}: {traceback.format_exc()}"
    finally:  # whoever waits for this rank fails, too
        distributed.destroy_process_group()
    return None


def check_column_then_row_parallel(tensor_parallel: TensorParallel) -> None:
    """With biases, the product of both is the unsharded one on every rank."""
    build = ModelBuild(torch.float64, CPU, ReferenceKernels(), tensor_parallel)
    inner, outer = _random(12, 8), _random(6, 12)
    inner_bias, outer_bias = _random(12), _random(6)
    column = ColumnParallelLinear(8, 12, build, bias=True)
    row = RowParallelLinear(12, 6, build, bias=True)
    _fill(column.placements(), {"weight": inner, "bias": inner_bias})
    _fill(row.placements(), {"weight": outer, "bias": outer_bias})
    hidden = _random(5, 8)
    expected = torch.relu(hidden @ inner.T + inner_bias) @ outer.T + outer_bias
    torch.testing.assert_close(row(torch.relu(column(hidden))), expected)


def check_merged_column_parallel(tensor_parallel: TensorParallel) -> None:
    """Each rank computes its shard of every part, and the only KV head is held by both."""
    build = ModelBuild(torch.float64, CPU, ReferenceKernels(), tensor_parallel)
    parts = (Part("q_proj", 4, 3), Part("k_proj", 1, 3, replicate=True))
    merged = MergedColumnParallelLinear(8, parts, build, bias=True)
    weights = {"q_proj.weight": _random(12, 8), "k_proj.weight": _random(3, 8)}
    biases = {"q_proj.bias": _random(12), "k_proj.bias": _random(3)}
    _fill(merged.placements(), weights | biases)
    hidden = _random(5, 8)
    query, key = merged(hidden).split(merged.widths, dim=-1)
    from_one = MergedColumnParallelLinear(8, parts, build, bias=True, fused="qk")
    stored = {"qk.weight": torch.cat(list(weights.values())), "qk.bias": torch.cat(list(biases.values()))}
    _fill(from_one.placements(), stored)
    assert torch.equal(from_one(hidden), merged(hidden))
    whole_query = hidden @ weights["q_proj.weight"].T + biases["q_proj.bias"]
    torch.testing.assert_close(query, whole_query.chunk(tensor_parallel.size, dim=-1)[tensor_parallel.rank])
    torch.testing.assert_close(key, hidden @ weights["k_proj.weight"].T + biases["k_proj.bias"])


def check_embedding_and_head(tensor_parallel: TensorParallel) -> None:
    """Also with a vocabulary that doesn't divide."""
    build = ModelBuild(torch.float64, CPU, ReferenceKernels(), tensor_parallel)
    table = _random(11, 4)
    embedding = VocabParallelEmbedding(11, 4, build)
    _fill(embedding.placements(), {"weight": table})
    token_ids = torch.tensor([10, 0, 5, 6, 6, 3])
    torch.testing.assert_close(embedding(token_ids), table[token_ids])
    hidden = _random(3, 4)
    logits = ParallelLMHead(embedding).logits(hidden)
    if tensor_parallel.rank == 0:
        torch.testing.assert_close(logits, hidden @ table.T)


def check_layers(tensor_parallel: TensorParallel) -> None:
    """All of the above, for the price of one start of processes."""
    check_column_then_row_parallel(tensor_parallel)
    check_merged_column_parallel(tensor_parallel)
    check_embedding_and_head(tensor_parallel)


def check_models(
    tensor_parallel: TensorParallel, folders: dict[str, Path], token_ids: list[int], expected: dict[str, torch.Tensor]
) -> None:
    """Checkpoints loaded in parts give the logits `expected` of the whole ones, prefilled in part and then decoded, on
    the reference and on the C++ kernels; without a head the hidden states, on every rank."""
    for name, folder in folders.items():
        for kernels in (ReferenceKernels(), CpuKernels()):
            model = RaggedModel(folder, kernels=kernels, tensor_parallel=tensor_parallel)
            if not model.config.generates:
                model.run({"row": token_ids})
                states = model.forward.hidden_states(np.arange(len(token_ids)))
                torch.testing.assert_close(states, expected[name], atol=1e-4, rtol=0)
                continue
            logits = [model.step({"row": part})["row"] for part in (token_ids[:-2], token_ids[-2:-1], token_ids[-1:])]
            if tensor_parallel.rank == 0:
                difference = float((torch.cat(logits) - expected[name]).abs().max())
                assert difference < 1e-4, f"{name}, {kernels.name} kernels: {difference}"


def check_quantized_llama(
    tensor_parallel: TensorParallel, folder: Path, token_ids: list[int], exact: torch.Tensor, tolerance: float
) -> None:
    """A checkpoint loaded in parts as int8 stays close to the float logits of the whole, on both kernels."""
    for kernels in (ReferenceKernels(), CpuKernels()):
        model = RaggedModel(folder, kernels=kernels, tensor_parallel=tensor_parallel, quantization="int8")
        logits = model.step({"row": token_ids})["row"]
        if tensor_parallel.rank == 0:
            assert (logits - exact).abs().mean() < tolerance * exact.std(), kernels.name


def check_grouped_llama(
    tensor_parallel: TensorParallel, path: Path, token_ids: list[int], exact: torch.Tensor, tolerance: float
) -> None:
    """A file of few bits, its parts as they are, stays close to the dequantized whole."""
    for kernels in (ReferenceKernels(), CpuKernels()):
        model = RaggedModel(path, kernels=kernels, tensor_parallel=tensor_parallel, quantization="auto")
        logits = model.step({"row": token_ids})["row"]
        if tensor_parallel.rank == 0:
            assert (logits - exact).abs().mean() < tolerance * exact.std(), kernels.name


def _random(*shape: int) -> torch.Tensor:
    """The same on every rank for a shape."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def _fill(placements: Placements, tensors: dict[str, torch.Tensor]) -> None:
    """Load whole tensors, each of this rank's parts of them in two slices of rows."""
    assert placements.keys() == tensors.keys()
    for name, parts in placements.items():
        for placement in parts:
            assert placement.shape == tuple(tensors[name].shape)
            middle = (placement.rows.start + placement.rows.stop) // 2
            for rows in (range(placement.rows.start, middle), range(middle, placement.rows.stop)):
                placement.load_rows(rows.start, tensors[name][rows.start : rows.stop], ReferenceKernels())
