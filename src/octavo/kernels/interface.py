"""What a kernel backend offers, and the shapes it is handed. Layers and the model runner know backends only through
this."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.kernels.quantized import QuantizedWeight
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores
from octavo.layer_groups import LayerGroups

Weight = torch.Tensor | QuantizedWeight
"""What a product multiplies with: `[out_features, in_features]`."""

ActivationKind = Literal["relu", "gelu", "gelu_tanh", "silu"]
"""gelu is exact, with the error function (Hendrycks and Gimpel, 2016); gelu_tanh its approximation by tanh."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The KV cache: `num_blocks` records, each a block's K and V for one group's layers (DESIGN: block-major memory).

    Any record serves any group: block tables say which. One of a group with fewer layers has its last places empty.
    """

    num_blocks: int
    layer_groups: LayerGroups
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    """A floating dtype, or int8: then each slot and KV head has a float32 scale for its K and one for its V."""

    @property
    def num_groups(self) -> int:
        """Groups of layers: a row has a block table for each."""
        return len(self.layer_groups.groups)

    @property
    def num_layers(self) -> int:
        """Places for layers in one record."""
        return self.layer_groups.layers_a_group

    @property
    def block_bytes(self) -> int:
        """Bytes of one record, with its scales where it has any."""
        vectors = 2 * self.num_layers * self.block_size * self.num_kv_heads
        scale_bytes = 4 if self.dtype == torch.int8 else 0
        return vectors * (self.head_dim * self.dtype.itemsize + scale_bytes)

    @property
    def num_bytes(self) -> int:
        return self.num_blocks * self.block_bytes


@dataclass(frozen=True, slots=True)
class KVCache:
    """The one allocation that holds every block.

    What is inside a record is the business of the backend that made the cache; all others move records whole.
    """

    shape: CacheShape
    records: torch.Tensor
    """`[num_blocks, block_bytes]` uint8, contiguous."""


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """The tokens of one step: a flat list, and for each row how many are new and where its KV lives.

    All tensors are on the cache's device. Row `r` owns tokens `query_starts[r]` to `query_starts[r + 1]`, which are the
    last `query_starts[r + 1] - query_starts[r]` of its `context_lens[r]` tokens; so prefill, chunked prefill and decode
    differ only in numbers.
    """

    token_ids: torch.Tensor
    """`[num_tokens]` int64."""
    positions: torch.Tensor
    """`[num_tokens]` int64: each token's position in its row, from 0."""
    slots: torch.Tensor
    """`[num_groups, num_tokens]` int64: `physical block * block_size + offset`, where the token's K and V of each layer
    group are written."""
    query_starts: torch.Tensor
    """`[num_rows + 1]` int64."""
    context_lens: torch.Tensor
    """`[num_rows]` int64: tokens whose KV the row can see once this step's are written."""
    tables: torch.Tensor
    """`[num_rows]` int64: each row's place in `block_tables`."""
    block_tables: torch.Tensor
    """`[num_groups, num_tables, max_blocks]` int64: of each layer group the physical block of each logical block, in
    the tables of all rows that there are.

    Entries past a row's last block are arbitrary but valid ids. So are those of blocks that lie wholly behind the
    windows of all of a row's new tokens: such blocks may be another sequence's by now."""


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """What all layers of a step share: a model hands it from its embedding to its last attention, unread."""

    cache: KVCache
    batch: RaggedBatch
    prepared: Any
    """What the backend made of the batch, once for all layers."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSpec:
    """One layer's attention. Head counts are this rank's."""

    layer: int
    """Index in the model; `CacheShape.layer_groups` has its place in the cache."""
    num_heads: int
    """A multiple of `num_kv_heads`; neighbours share a KV head."""
    num_kv_heads: int
    head_dim: int
    scale: float
    """Multiplies the scores."""
    window: int | None = None
    """A token sees itself and the `window - 1` tokens before it; None sees all."""
    softcap: float | None = None
    """Scores become `softcap * tanh(score / softcap)` before masking."""
    query_norm: torch.Tensor | None = None
    """`[head_dim]`: the weight of an RMS norm of each query head, before rotation; None leaves them as they are."""
    key_norm: torch.Tensor | None = None
    """`[head_dim]`: the same for key heads."""
    norm_eps: float = 0.0
    """Of both norms."""
    cos_sin: torch.Tensor | None = None
    """`[max_positions, rotary_dim]`: the cosines of `rotary_dim / 2` frequencies, then their sines. None rotates
    nothing."""


@dataclass(frozen=True, slots=True)
class Collective:
    """Work that all ranks do together, in Python: takes this rank's tensor and returns what comes of all."""

    run: Callable[[torch.Tensor], torch.Tensor]


Argument = torch.Tensor | KVCache | AttentionSpec | Collective | float | str | None
"""What an operation is called with, weights apart."""

NO_WEIGHTS: Mapping[str, Sequence[Weight]] = MappingProxyType({})


class ForwardPass(Protocol):
    """A model bound to a cache, ready to run steps."""

    def run(self, batch: RaggedBatch) -> None:
        """Compute a step: write its KV and keep its tokens' last hidden states until the next one."""
        ...

    def logits(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """Logits that follow some of the last step's tokens.

        Args:
            tokens: `[n]`, indices into the step's flat list.

        Returns:
            `[n, vocab_size]`, valid until the next call.
        """
        ...

    def seconds_by_operation(self) -> dict[str, float]:
        """Where the time of all runs so far has gone; empty for kernels that do not tell."""
        ...


class Model(Protocol):
    """What a backend runs: a forward pass in the words of `Kernels`."""

    def __call__(self, step: AttentionStep) -> torch.Tensor:
        """The last hidden state of every token: `[num_tokens, hidden_size]`."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, vocab_size]`."""
        ...


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

    def add(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The sum of two activations of one shape."""
        (total,) = self.record("add", [a.shape[-1]], a=a, b=b)
        return total

    def linear(self, hidden: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, out_features]`: hidden @ weight.T + bias.

        With a quantized weight the activations are quantized too, a token's in groups of `quantized.GROUP`; a group's
        sums are exact integers, and groups add up in their order.
        """
        (product,) = self.record("linear", [weight.shape[0]], weights={"weight": [weight]}, hidden=hidden, bias=bias)
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

    def attention(self, qkv: torch.Tensor, step: AttentionStep, spec: AttentionSpec) -> torch.Tensor:
        """Normalise the new tokens' query and key heads, rotate them by their positions, write the tokens' K and V into
        their slots, and attend causally over their rows' blocks (paper, section 4.1, equation 4).

        Args:
            qkv: `[num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]`: query heads, key heads, value heads.

        Returns:
            `[num_tokens, num_heads * head_dim]`. Sums are in float32, or float64 where the cache is.
        """
        layer_group, place = step.cache.shape.layer_groups.place(spec.layer)
        (attended,) = self.record(
            "attention",
            [spec.num_heads * spec.head_dim],
            qkv=qkv,
            cache=step.cache,
            spec=spec,
            layer_group=layer_group,
            place=place,
        )
        return attended


class Kernels(Operations, Protocol):
    """One device's kernels. `kernels/reference.py` is the plain torch version that every other is tested against.

    A backend may compute as it is called, or record what is called: then `bind` runs the model's forward once with
    handles in place of tensors, and steps replay it. So layers and models combine the operations, and touch
    activations in no other way.
    """

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. On the CPU its pages are taken from the system when first written."""
        ...

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records (`[n]` int64 block ids each) within a cache, or to another one with records of the same
        shape: a swap. No id is twice in `destination_ids`, and within a cache none is in both."""
        ...

    def bind(self, model: Model, cache: KVCache) -> ForwardPass:
        """Make the model ready to run steps. A backend may take the weights over: the model's own are not to be used
        afterwards."""
        ...

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """Choose the next token of each row, or the candidates of a beam, without waiting for a device.

        The rows' edits change the logits. Rows at temperature 0 take the most likely token, of equals the lowest id.
        For the others follow temperature, top-k, top-p and min-p, in this order, and a race between the tokens left,
        each with the noise that belongs to (seed, sequence, position, token). A row's token depends on no other row,
        bit for bit. It is one that the masks allow, unless they allow none or the logits aren't numbers: then it is the
        row's `fallback`.

        Args:
            logits: `[num_rows, vocab_size]`, any floating dtype; 16 bit is widened to float32. Not changed.
        """
        ...

    def score(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
        """What is told of given tokens (`[n, k]` int64) at the positions before them.

        Args:
            logits: `[n, vocab_size]`, as the model gave them. Takes three times their memory.
            num_top: how many of the most likely tokens to tell of; past the vocabulary is all of it.
        """
        ...
