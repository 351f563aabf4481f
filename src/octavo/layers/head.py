"""What a model makes of last hidden states: logits of the next token, scores of classes, or nothing more."""

from collections.abc import Iterable, Sequence
from typing import NoReturn, Protocol, cast

import torch
from torch import nn
from torch.nn import functional

from octavo.errors import ModelError
from octavo.layers.build import ModelBuild
from octavo.layers.embedding import VocabParallelEmbedding
from octavo.layers.placement import Placements, prefixed, whole
from octavo.pooling import Dense


class Head(Protocol):
    """A model's end; a torch module."""

    gives_logits: bool
    """Whether it scores the next token."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, vocab_size]`, in the model's dtype. Raises ModelError where it gives none."""
        ...

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, width]`: what layers behind pooling make of a pooled state; itself without any."""
        ...

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, num_labels]`, in the same dtype. Raises ModelError where it has no classes."""
        ...

    def placements(self) -> Placements:
        """By a checkpoint's whole names."""
        ...

    @property
    def unused_tensors(self) -> tuple[str, ...]:
        """Ends of the names of heads that a checkpoint may carry in its place."""
        ...


class ParallelLMHead(nn.Module):
    """Logits as products with a table of vectors: its own, or that of the model's embedding where the two are tied."""

    gives_logits = True

    def __init__(self, embedding: VocabParallelEmbedding, own: VocabParallelEmbedding | None = None) -> None:
        super().__init__()
        self.table = embedding if own is None else own
        self.is_tied = own is None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, vocab_size]` on rank 0; what other ranks get is not to be used."""
        table = self.table
        logits = table.kernels.linear(hidden, table.weight)
        return table.kernels.gather(logits, table.tensor_parallel, table.shape[0])

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return pooled

    def classify(self, pooled: torch.Tensor) -> NoReturn:
        """None."""
        raise ModelError("the model has no head that scores classes")

    def placements(self) -> Placements:
        """`lm_head.weight`; none where the embedding places the table."""
        return {} if self.is_tied else prefixed("lm_head.", self.table.placements())

    @property
    def unused_tensors(self) -> tuple[str, ...]:
        """The table, once more, of a tied head."""
        return ("lm_head.weight",) if self.is_tied else ()


class EmbeddingHead(nn.Module):
    """The end of a model that gives hidden states only, with what its embeddings go through behind pooling, if
    anything. Every rank holds that whole."""

    gives_logits = False
    unused_tensors = ("lm_head.weight",)

    def __init__(self, build: ModelBuild, dense: Sequence[Dense] = ()) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(each, build) for each in dense)

    def logits(self, hidden: torch.Tensor) -> NoReturn:
        """None."""
        raise ModelError("the model has no head: it gives hidden states, and no logits of tokens")

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, width]`: computed in the dtype of `pooled`."""
        for layer in self.layers:
            pooled = layer(pooled)
        return pooled

    def classify(self, pooled: torch.Tensor) -> NoReturn:
        """None."""
        raise ModelError("the model has no head that scores classes")

    def placements(self) -> Placements:
        """`<folder>.linear.weight` of each layer, and its bias."""
        found: Placements = {}
        for layer in cast(Iterable[DenseLayer], self.layers):
            found |= layer.placements()
        return found


class DenseLayer(nn.Module):
    """A product with pooled states, and its activation."""

    def __init__(self, dense: Dense, build: ModelBuild) -> None:
        super().__init__()
        self.dense = dense
        self.weight = build.parameter(dense.out_features, dense.in_features)
        self.bias = build.parameter(dense.out_features) if dense.has_bias else None

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, in_features]` -> `[n, out_features]`."""
        product = _product(pooled, self.weight, self.bias)
        return product.tanh() if self.dense.activation == "tanh" else product

    def placements(self) -> Placements:
        """By the folder that has them."""
        found = {f"{self.dense.folder}.linear.weight": whole(self.weight)}
        if self.bias is not None:
            found[f"{self.dense.folder}.linear.bias"] = whole(self.bias)
        return found


class ClassHead(nn.Module):
    """Scores of classes: a product with a pooled state; for encoders behind a dense layer and tanh (Devlin et al.,
    BERT, 2018). Every rank holds it whole.

    Args:
        out: what checkpoints call the product.
        dense: what they call the dense layer; None is without one.
        bias: of the product; a dense layer always has one.
    """

    gives_logits = False
    unused_tensors = ("lm_head.weight",)

    def __init__(
        self, hidden_size: int, num_labels: int, build: ModelBuild, *, out: str, dense: str | None = None, bias: bool
    ) -> None:
        super().__init__()
        self.out, self.dense = out, dense
        self.weight = build.parameter(num_labels, hidden_size)
        self.bias = build.parameter(num_labels) if bias else None
        self.dense_weight = None if dense is None else build.parameter(hidden_size, hidden_size)
        self.dense_bias = None if dense is None else build.parameter(hidden_size)

    def logits(self, hidden: torch.Tensor) -> NoReturn:
        """None."""
        raise ModelError("the model's head scores classes, and gives no logits of tokens")

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return pooled

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, num_labels]`: computed in the dtype of `pooled`."""
        if self.dense_weight is not None and self.dense_bias is not None:
            pooled = _product(pooled, self.dense_weight, self.dense_bias).tanh()
        return _product(pooled, self.weight, self.bias)

    def placements(self) -> Placements:
        """`<out>.weight`, and the others that there are."""
        own = {
            f"{self.dense}.weight": self.dense_weight,
            f"{self.dense}.bias": self.dense_bias,
            f"{self.out}.weight": self.weight,
            f"{self.out}.bias": self.bias,
        }
        return {name: whole(parameter) for name, parameter in own.items() if parameter is not None}


def _product(pooled: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return functional.linear(pooled, weight.to(pooled.dtype), None if bias is None else bias.to(pooled.dtype))
