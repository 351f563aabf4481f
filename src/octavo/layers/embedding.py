"""The token embedding, split over the vocabulary; learned positions; segments."""

import torch
from torch import nn

from octavo.kernels.batch import RaggedBatch
from octavo.layers.build import ModelBuild
from octavo.layers.placement import Placement, Placements, place_weight, whole


class VocabParallelEmbedding(nn.Module):
    """A table of one vector a token. Ranks hold equally many neighbours, the last fewer where it doesn't divide.

    Where `is_head`, the model's head multiplies with it, and it is quantized as such. `scale` multiplies the vectors
    that are looked up, and not those that the head reads.
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, build: ModelBuild, *, is_head: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.shape = (vocab_size, hidden_size)
        self.tensor_parallel = build.tensor_parallel
        self.rows = build.tensor_parallel.uneven_shard(vocab_size, "tokens")
        self.scale = scale
        self.kernels = build.kernels
        make = build.table if is_head else build.parameter
        self.weight = make(len(self.rows), hidden_size)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[num_tokens]` int64 -> `[num_tokens, hidden_size]`, whole on every rank."""
        own = self.kernels.embedding(token_ids, self.weight, self.scale, first_id=self.rows.start)
        return self.kernels.all_reduce(own, self.tensor_parallel)

    def placements(self) -> Placements:
        """`weight`."""
        return {"weight": [place_weight(self.weight, self.shape, self.rows)]}


class PositionEmbedding(nn.Module):
    """A learned vector for each position, whole on every rank. The positions that no sequence reaches are not kept.

    `first_row` is the row of the checkpoint's table that belongs to position 0; the table has as many more rows.
    """

    def __init__(self, num_positions: int, hidden_size: int, build: ModelBuild, *, first_row: int = 0) -> None:
        super().__init__()
        kept = min(num_positions, build.max_model_len or num_positions)
        self.rows = range(first_row, first_row + kept)
        self.shape = (first_row + num_positions, hidden_size)
        self.kernels = build.kernels
        self.weight = build.parameter(kept, hidden_size)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """`[num_tokens]` int64 -> `[num_tokens, hidden_size]`."""
        return self.kernels.embedding(positions, self.weight)

    def placements(self) -> Placements:
        """`weight`."""
        return {"weight": [Placement(self.weight, self.shape, self.rows)]}


class SegmentEmbedding(nn.Module):
    """A learned vector for each segment of a row, whole on every rank: for the two texts of a pair (Devlin et al.,
    BERT, 2018). A segment ends with the token `separator`; None is where all of a row is one.
    """

    def __init__(self, num_segments: int, hidden_size: int, build: ModelBuild, *, separator: int | None) -> None:
        super().__init__()
        self.separator = -1 if separator is None else separator
        self.kernels = build.kernels
        self.weight = build.parameter(num_segments, hidden_size)

    def forward(self, batch: RaggedBatch) -> torch.Tensor:
        """`[num_tokens, hidden_size]`."""
        return self.kernels.segment_embedding(batch, self.weight, self.separator)

    def placements(self) -> Placements:
        """`weight`."""
        return {"weight": whole(self.weight)}
