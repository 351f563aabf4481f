"""The token embedding and the head that turns hidden states into logits, both split over the vocabulary; learned
positions."""

import torch
from torch import nn
from torch.nn import functional

from octavo.layers.build import ModelBuild
from octavo.layers.placement import Placement, Placements, place_weight


class VocabParallelEmbedding(nn.Module):
    """A table of one vector a token. Ranks hold equally many neighbours, the last fewer where it doesn't divide.

    Where `is_head`, the model's head multiplies with it, and it is quantized as other such weights are. `scale`
    multiplies the vectors that are looked up, and not those that the head reads.
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, build: ModelBuild, *, is_head: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.shape = (vocab_size, hidden_size)
        self.tensor_parallel = build.tensor_parallel
        self.rows_per_rank = -(-vocab_size // build.tensor_parallel.size)
        start = min(vocab_size, build.tensor_parallel.rank * self.rows_per_rank)
        self.rows = range(start, min(vocab_size, start + self.rows_per_rank))
        self.scale = scale
        self.kernels = build.kernels
        make = build.weight if is_head else build.parameter
        self.weight = make(len(self.rows), hidden_size)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[num_tokens]` int64 -> `[num_tokens, hidden_size]`, whole on every rank."""
        if self.tensor_parallel.size == 1:
            return self.kernels.embedding(token_ids, self.weight, self.scale)
        here = (token_ids >= self.rows.start) & (token_ids < self.rows.stop)
        own_ids = torch.where(here, token_ids - self.rows.start, 0)
        embedded = self.kernels.embedding(own_ids, self.weight, self.scale)
        return self.tensor_parallel.all_reduce(embedded.masked_fill(~here.unsqueeze(1), 0))

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


class ParallelLMHead(nn.Module):
    """Logits as products with a table of vectors: the model's own embedding where the two are tied, or another one."""

    def __init__(self, table: VocabParallelEmbedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, vocab_size]`, whole on every rank."""
        table = self.table
        logits = table.kernels.linear(hidden, table.weight)
        if table.tensor_parallel.size == 1:
            return logits
        padded = functional.pad(logits, (0, table.rows_per_rank - len(table.rows)))
        return table.tensor_parallel.all_gather(padded)[:, : table.shape[0]]
