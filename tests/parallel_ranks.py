"""Runs a check in two processes joined by gloo. The checks live here, as a child imports them by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from octavo.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.parallel import TensorParallel
from octavo.layers.placement import Placements
from ragged_model import RaggedModel

CPU = torch.device("cpu")


def on_two_ranks(check: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `check(tensor_parallel, *arguments)` on both ranks; its failure is raised here."""
    start: Callable[..., Any] = spawn
    start(_rank, args=(check, str(folder / "rendezvous"), arguments), nprocs=2)


def _rank(rank: int, check: Callable[..., None], rendezvous: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        with torch.inference_mode():
            check(TensorParallel(rank, 2), *arguments)
    finally:
        distributed.destroy_process_group()


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
    """Each rank computes its share of every part, and the only KV head is held by both."""
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
    torch.testing.assert_close(ParallelLMHead(embedding)(hidden), hidden @ table.T)


def check_layers(tensor_parallel: TensorParallel) -> None:
    """All of the above, for the price of one start of processes."""
    check_column_then_row_parallel(tensor_parallel)
    check_merged_column_parallel(tensor_parallel)
    check_embedding_and_head(tensor_parallel)


def check_llama(tensor_parallel: TensorParallel, folder: Path, token_ids: list[int], expected: torch.Tensor) -> None:
    """A checkpoint loaded by halves gives the logits `expected` of the whole, prefilled in part and then decoded."""
    model = RaggedModel(folder, dtype=torch.float64, tensor_parallel=tensor_parallel)
    logits = [model.step({"row": token_ids[:-1]})["row"], model.step({"row": token_ids[-1:]})["row"]]
    torch.testing.assert_close(torch.cat(logits), expected)


def check_quantized_llama(
    tensor_parallel: TensorParallel, folder: Path, token_ids: list[int], exact: torch.Tensor, tolerance: float
) -> None:
    """A checkpoint loaded by halves as int8 stays close to the float logits of the whole."""
    model = RaggedModel(folder, tensor_parallel=tensor_parallel, quantization="int8")
    logits = model.step({"row": token_ids})["row"]
    assert (logits - exact).abs().mean() < tolerance * exact.std()


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
                placement.load_rows(rows.start, tensors[name][rows.start : rows.stop])
