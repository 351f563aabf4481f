"""Matrix products whose weight is split over ranks: by output (column parallel) or by input (row parallel)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from octavo.layers.build import ModelBuild
from octavo.layers.placement import Placement, Placements, place_weight, whole


@dataclass(frozen=True, slots=True)
class Part:
    """One of the checkpoint's matrices in a fused weight: `num_units` heads, or rows, of `unit_rows` outputs each."""

    name: str
    num_units: int
    unit_rows: int = 1
    replicate: bool = False
    """Fewer units than ranks are held by several ranks each: KV heads."""

    @property
    def num_rows(self) -> int:
        """Outputs on all ranks together."""
        return self.num_units * self.unit_rows


class MergedColumnParallelLinear(nn.Module):
    """Several projections of one input as one product: q, k and v, or gate and up. Each part is split over the ranks.

    `weight` is `[sum of widths, in_features]`, the parts below each other, or several such where a checkpoint has parts
    in unlike forms (`WeightParts`), unless the layer `needs_one_form`. `fused` names the checkpoint's one tensor of all
    parts, where they are not a tensor each.
    """

    def __init__(
        self,
        in_features: int,
        parts: Sequence[Part],
        build: ModelBuild,
        *,
        bias: bool = False,
        fused: str | None = None,
        needs_one_form: bool = False,
    ) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.needs_one_form = needs_one_form
        self.fused = fused
        tensor_parallel = build.tensor_parallel
        self.shards = [
            tensor_parallel.shard(part.num_units, f"units of {part.name}", replicate=part.replicate) for part in parts
        ]
        self.widths = [len(shard) * part.unit_rows for shard, part in zip(self.shards, parts, strict=True)]
        """The outputs of each part on this rank: where to split the result."""
        self.in_features = in_features
        self.kernels = build.kernels
        self.weight = build.weight(sum(self.widths), in_features)
        self.bias = build.parameter(sum(self.widths)) if bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, sum of widths]`, this rank's part."""
        return self.kernels.linear(hidden, self.weight, self.bias)

    def placements(self) -> Placements:
        """By the parts' names, or the fused tensor's: `q_proj.weight`, and `q_proj.bias` where there is one."""
        found: Placements = {}
        first_row = stored_row = 0
        num_fused = sum(part.num_rows for part in self.parts)
        for part, shard, width in zip(self.parts, self.shards, self.widths, strict=True):
            name, start, num_rows = (self.fused, stored_row, num_fused) if self.fused else (part.name, 0, part.num_rows)
            rows = range(start + shard.start * part.unit_rows, start + shard.stop * part.unit_rows)
            shape = (num_rows, self.in_features)
            weight = place_weight(self.weight, shape, rows, first_row, needs_one_form=self.needs_one_form)
            found.setdefault(f"{name}.weight", []).append(weight)
            if self.bias is not None:
                found.setdefault(f"{name}.bias", []).append(Placement(self.bias, (num_rows,), rows, first_row))
            first_row += width
            stored_row += part.num_rows
        return found


class ReplicatedLinear(nn.Module):
    """A projection that every rank computes whole. `weight` is `[out_features, in_features]`."""

    def __init__(self, in_features: int, out_features: int, build: ModelBuild, *, bias: bool = False) -> None:
        super().__init__()
        self.shape = (out_features, in_features)
        self.kernels = build.kernels
        self.weight = build.weight(out_features, in_features)
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, out_features]`."""
        return self.kernels.linear(hidden, self.weight, self.bias)

    def placements(self) -> Placements:
        """`weight`, and `bias` where there is one."""
        found = {"weight": [place_weight(self.weight, self.shape, range(self.shape[0]))]}
        if self.bias is not None:
            found["bias"] = whole(self.bias)
        return found


class ColumnParallelLinear(nn.Module):
    """A projection whose outputs are split over the ranks. `weight` is `[out_features / size, in_features]`."""

    def __init__(self, in_features: int, out_features: int, build: ModelBuild, *, bias: bool = False) -> None:
        super().__init__()
        self.shape = (out_features, in_features)
        self.rows = build.tensor_parallel.shard(out_features, "outputs of a layer")
        self.kernels = build.kernels
        self.weight = build.weight(len(self.rows), in_features)
        self.bias = build.parameter(len(self.rows)) if bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, out_features / size]`, this rank's part."""
        return self.kernels.linear(hidden, self.weight, self.bias)

    def placements(self) -> Placements:
        """`weight`, and `bias` where there is one."""
        found = {"weight": [place_weight(self.weight, self.shape, self.rows)]}
        if self.bias is not None:
            found["bias"] = [Placement(self.bias, self.shape[:1], self.rows)]
        return found


class RowParallelLinear(nn.Module):
    """A projection whose inputs are split over the ranks, and its outputs summed.

    `weight` is `[out_features, in_features / size]`.
    """

    def __init__(self, in_features: int, out_features: int, build: ModelBuild, *, bias: bool = False) -> None:
        super().__init__()
        self.shape = (out_features, in_features)
        self.tensor_parallel = build.tensor_parallel
        self.columns = build.tensor_parallel.shard(in_features, "inputs of a layer")
        self.kernels = build.kernels
        self.weight = build.weight(out_features, len(self.columns))
        self.bias = build.parameter(out_features) if bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, in_features / size]`, this rank's part -> `[num_tokens, out_features]`, whole on every rank."""
        bias = self.bias if self.tensor_parallel.rank == 0 else None  # in the sum once
        return self.kernels.all_reduce(self.kernels.linear(hidden, self.weight, bias), self.tensor_parallel)

    def placements(self) -> Placements:
        """`weight`, and `bias` where there is one."""
        found = {"weight": [place_weight(self.weight, self.shape, range(self.shape[0]), columns=self.columns)]}
        if self.bias is not None:
            found["bias"] = whole(self.bias)
        return found
