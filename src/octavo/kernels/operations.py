"""The operations that a forward pass is made of, each declared once, and what they are called with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import torch

from octavo.errors import ModelError
from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import KVCache
from octavo.kernels.grouped import GroupedWeight
from octavo.kernels.quantized import QuantizedWeight
from octavo.layer_groups import LayerKind

DenseWeight = torch.Tensor | QuantizedWeight
"""`[out_features, in_features]`, without groups of inputs."""
Weight = DenseWeight | GroupedWeight
"""What a product multiplies with: `[out_features, in_features]`."""

ActivationKind = Literal["relu", "gelu", "gelu_tanh", "silu"]
"""gelu is exact, with the error function (Hendrycks and Gimpel, 2016); gelu_tanh its approximation by tanh."""


@dataclass(frozen=True, slots=True)
class Collective:
    """Work that all ranks do together, in Python: takes this rank's tensor and returns what comes of all."""

    run: Callable[[torch.Tensor], torch.Tensor]


Argument = torch.Tensor | KVCache | AttentionSpec | LayerKind | Collective | float | str | None
"""What an operation is called with, weights apart."""

NO_WEIGHTS: Mapping[str, Sequence[Weight]] = MappingProxyType({})


class Ranks(Protocol):
    """The processes that hold one model together, each calling the same operations in the same order:
    `layers.parallel.TensorParallel`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; `tensor` is overwritten with it."""
        ...

    def gather(self, tensor: torch.Tensor, width: int) -> torch.Tensor:
        """`[n, own]` of every rank, side by side on rank 0: `[n, width]`. Other ranks get their own back."""
        ...


class Operations(Protocol):
    """What a forward pass is made of. Each operation is declared once: here, with its name, its arguments and shapes.

    A backend that computes has a method for each operation, as `kernels/reference.py` has. A backend that records
    inherits them, and has `record`: an operation's body tells it all that was said of the call.
    """

    name: str
    has_grouped_weights: bool
    """Whether products with `GroupedWeight`s are as fast as others: where not, models are loaded without any."""

    def record(
        self,
        operation: str,
        widths: Sequence[int],
        *,
        weights: Mapping[str, Sequence[Weight]] = NO_WEIGHTS,
        **arguments: Argument,
    ) -> list[torch.Tensor]:
        """Note that an operation is called.

        Args:
            widths: of the results; each is `[num_tokens, width]`.
            weights: those that products read, or rows are looked up in.
            arguments: all others, by their names. A tensor that is no activation is read as float32.

        Returns:
            What stands for the results while the forward pass is recorded.

        Raises:
            ModelError: this backend does not record, and lacks the operation.
        """
        raise ModelError(f"kernels '{self.name}' have no operation '{operation}', which the model needs")

    def embedding(self, ids: torch.Tensor, weight: Weight, scale: float = 1.0, *, first_id: int = 0) -> torch.Tensor:
        """`[num_tokens]` int64, a batch's token ids or its positions -> the weight's rows times `scale`,
        `[num_tokens, in_features]`.

        The rows belong to the ids from `first_id` on; where an id has none, there are zeros.
        """
        (rows,) = self.record(
            "embedding", [weight.shape[1]], weights={"weight": [weight]}, ids=ids, scale=scale, first_id=first_id
        )
        return rows

    def segment_embedding(self, batch: RaggedBatch, weight: torch.Tensor, separator: int) -> torch.Tensor:
        """The weight's row of the segment that each new token is in, `[num_tokens, width]`: the first up to a row's
        first token `separator`, itself among them, the second up to the next one, and so on, the last to the row's end
        (Devlin et al., BERT, 2018). A row's tokens are all in one step.
        """
        (rows,) = self.record("segment_embedding", [weight.shape[1]], weights={"weight": [weight]}, separator=separator)
        return rows

    def add(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The sum of two activations of one shape."""
        (total,) = self.record("add", [a.shape[-1]], a=a, b=b)
        return total

    def linear(
        self, hidden: torch.Tensor, weight: Weight | Sequence[Weight], bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, out_features]`: hidden @ weight.T + bias.

        With a quantized weight the activations are quantized too, a token's in groups (`quantized.Format`). A group's
        sums are exact integers where the weight is of integers, and groups add up in their order. Of several weights,
        as parts of a projection that are not of one form, the outputs lie side by side.
        """
        parts = [weight] if isinstance(weight, torch.Tensor | QuantizedWeight | GroupedWeight) else list(weight)
        num_outputs = sum(part.shape[0] for part in parts)
        (product,) = self.record("linear", [num_outputs], weights={"weight": parts}, hidden=hidden, bias=bias)
        return product

    def rms_norm(
        self, hidden: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` (if any) and normalise over the last dimension. Returns (normalised * weight, the sum before
        normalising)."""
        widths = [hidden.shape[-1]] * (1 if residual is None else 2)
        normalised, *total = self.record("rms_norm", widths, hidden=hidden, weight=weight, eps=eps, residual=residual)
        return normalised, total[0] if total else hidden

    def layer_norm(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` (if any), take off the mean over the last dimension and divide by the deviation. Returns
        (normalised * weight + bias, the sum before normalising); a weight of None is 1, a bias of None 0."""
        widths = [hidden.shape[-1]] * (1 if residual is None else 2)
        normalised, *total = self.record(
            "layer_norm", widths, hidden=hidden, weight=weight, bias=bias, eps=eps, residual=residual
        )
        return normalised, total[0] if total else hidden

    def activation(self, hidden: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
        """Each element's activation, in the same shape."""
        (activated,) = self.record("activation", [hidden.shape[-1]], hidden=hidden, kind=kind)
        return activated

    def activation_and_mul(self, gate_up: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
        """`[num_tokens, 2 * width]` -> `[num_tokens, width]`: activation(first half) * second half (Shazeer, GLU
        variants improve transformer, 2020)."""
        (product,) = self.record("activation_and_mul", [gate_up.shape[-1] // 2], gate_up=gate_up, kind=kind)
        return product

    def experts(
        self,
        hidden: torch.Tensor,
        router: torch.Tensor,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        num_chosen: int,
        kind: ActivationKind,
    ) -> torch.Tensor:
        """Send each token through the experts that score highest for it, and add up their results, weighted by the
        softmax of the chosen ones' scores (Shazeer et al., 2017; Jiang et al., Mixtral of Experts, 2024).

        Args:
            hidden: `[num_tokens, hidden_size]`.
            router: `[num_experts, hidden_size]`: the scores are products with it, in float32 at the least.
            gate_up: of each expert, `[2 * inner, hidden_size]`, for `activation_and_mul`.
            down: of each expert, `[hidden_size, inner]`.
            num_chosen: experts a token; the first among equals.

        Returns:
            `[num_tokens, hidden_size]`.
        """
        (total,) = self.record(
            "experts",
            [hidden.shape[-1]],
            weights={"gate_up": gate_up, "down": down},
            hidden=hidden,
            router=router,
            num_chosen=num_chosen,
            kind=kind,
        )
        return total

    def all_reduce(self, hidden: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """The sum of all ranks' `hidden`, whose own content is lost."""
        if ranks.size > 1:
            self.record("all_reduce", [], hidden=hidden, reduce=Collective(ranks.all_reduce))
        return hidden

    def gather(self, logits: torch.Tensor, ranks: Ranks, width: int) -> torch.Tensor:
        """`[n, own]` of every rank -> `[n, width]` on rank 0; what other ranks get is not to be used."""
        if ranks.size == 1:
            return logits
        gather = Collective(lambda own: ranks.gather(own, width))
        (gathered,) = self.record("gather", [width], logits=logits, gather=gather)
        return gathered

    def attention(self, qkv: torch.Tensor, context: ForwardContext, spec: AttentionSpec) -> torch.Tensor:
        """Normalise the new tokens' query and key heads, rotate them by their positions, write the tokens' K and V into
        their slots, and attend over their rows' blocks as the layer's kind says (paper, section 4.1, equation 4).

        Args:
            qkv: `[num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]`: query heads, key heads, value heads.

        Returns:
            `[num_tokens, num_heads * head_dim]`. Sums are in float32, or float64 where the cache is.
        """
        layer_group, place = context.cache.shape.layer_groups.place(spec.layer)
        (attended,) = self.record(
            "attention",
            [spec.num_heads * spec.head_dim],
            qkv=qkv,
            cache=context.cache,
            spec=spec,
            layer_group=layer_group,
            place=place,
        )
        return attended
