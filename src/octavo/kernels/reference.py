"""The plain torch backend: every operation in its simplest right form, which faster backends are tested against."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.grouped import GroupedRows, GroupedWeight, grouped_product
from octavo.kernels.interface import ForwardPass, Kernels, Model
from octavo.kernels.operations import ActivationKind, Ranks, Weight
from octavo.kernels.packed_weights import PackedWeights
from octavo.kernels.quantized import QuantizedWeight, exact_products, quantize_rows
from octavo.kernels.quantizing import quantize_into
from octavo.kernels.reference_attention import accumulation_dtype, paged_attention, prepare, write_kv
from octavo.kernels.sampling.drawing import most_likely
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores
from octavo.kernels.sampling.logprobs import score_tokens
from octavo.kernels.sampling.sampler import sample
from octavo.kernels.upload import upload

ROWS_MULTIPLE = 16
"""To which the rows of 16-bit products on the CPU are padded."""


ACTIVATIONS: dict[ActivationKind, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}


class EagerForward:
    """A model that is run operation by operation.

    Args:
        prepare: makes of a batch what all layers' attention shares (`ForwardContext.metadata`).
        find_most_likely: the likeliest tokens of `[n, vocab_size]` logits, with `[n]` fallbacks, and which are broken.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        prepare: Callable[[RaggedBatch, KVCache], object],
        find_most_likely: Callable[[torch.Tensor, NDArray[np.int64]], tuple[torch.Tensor, torch.Tensor]] = most_likely,
    ) -> None:
        self._model = model
        self._cache = cache
        self._prepare = prepare
        self._most_likely = find_most_likely
        self.hidden = torch.empty(0)
        """The last hidden states of the last step's tokens."""

    def padded_rows(self, num_rows: int) -> int:
        """No padding."""
        return num_rows

    def run(self, batch: RaggedBatch) -> None:
        """The forward pass; keeps the hidden states."""
        self.hidden = self._model(ForwardContext(self._cache, batch, self._prepare(batch, self._cache)))

    def logits(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[n]` indices of the step's tokens -> `[n, vocab_size]`."""
        return self._model.logits(self.hidden_states(tokens))

    def hidden_states(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[n]` indices of the step's tokens -> `[n, hidden_size]`."""
        if np.array_equal(tokens, np.arange(len(tokens))):
            return self.hidden[: len(tokens)]
        return self.hidden.index_select(0, upload(tokens, self.hidden.device))

    def most_likely(self, tokens: NDArray[np.int64], fallback: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """`[n]` indices of the step's tokens -> `[n]` int64, and `[n]` bool, the broken."""
        return self._most_likely(self.logits(tokens), fallback)

    def seconds_by_operation(self) -> dict[str, float]:
        """Not told."""
        return {}


class ReferenceKernels(Kernels):
    """`kernels.interface.Kernels` in plain torch, on any device and for every dtype."""

    name = "reference"
    has_grouped_weights = True

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. On the CPU it comes from calloc, so that a large pool costs nothing before it is used."""
        dimensions = (shape.num_blocks, shape.block_bytes)
        if device.type == "cpu":
            return KVCache(shape, torch.from_numpy(np.zeros(dimensions, np.uint8)))
        return KVCache(shape, torch.zeros(dimensions, dtype=torch.uint8, device=device))

    def quantize_into(self, weight: QuantizedWeight | GroupedWeight, first_row: int, rows: torch.Tensor) -> None:
        """Where the weight is."""
        quantize_into(weight, first_row, rows)

    def fill(self, weight: GroupedWeight, first_row: int, rows: GroupedRows) -> None:
        """Where the rows are, and then where the weight is."""
        weight.fill(first_row, rows)

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records (`[n]` int64 block ids each). Between devices it waits for them."""
        here, there = source.records.device, destination.records.device
        records = source.records.index_select(0, source_ids.to(here)).to(there)
        destination.records.index_copy_(0, destination_ids.to(there), records)

    def bind(
        self, model: Model, cache: KVCache, max_captured_rows: int = 0, packed: PackedWeights | None = None
    ) -> ForwardPass:
        """The model as it is."""
        return EagerForward(model, cache, prepare)

    def embedding(self, ids: torch.Tensor, weight: Weight, scale: float = 1.0, *, first_id: int = 0) -> torch.Tensor:
        """`[num_tokens]` int64 -> `[num_tokens, in_features]`, zeros for the ids of other ranks."""
        is_here = (ids >= first_id) & (ids < first_id + weight.shape[0])
        found = _rows(weight, torch.where(is_here, ids - first_id, 0))
        return torch.where(is_here.unsqueeze(1), found if scale == 1.0 else found * scale, 0)

    def segment_embedding(self, batch: RaggedBatch, weight: torch.Tensor, separator: int) -> torch.Tensor:
        """A row of the weight a token, by the separators before it in its row."""
        is_separator = (batch.token_ids == separator).long()
        before = is_separator.cumsum(0) - is_separator
        firsts = batch.query_starts[:-1]
        tokens = torch.arange(len(before), device=before.device)
        rows = torch.searchsorted(firsts, tokens, right=True) - 1
        segments = before - before[firsts][rows]
        return functional.embedding(segments.clamp(max=len(weight) - 1), weight)

    def add(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The sum of two activations of one shape."""
        return a + b

    def linear(
        self, hidden: torch.Tensor, weight: Weight | Sequence[Weight], bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, out_features]`."""
        if isinstance(weight, Sequence):
            product = torch.cat([self.linear(hidden, part) for part in weight], dim=1)
            return product if bias is None else product + bias
        if not isinstance(weight, torch.Tensor):
            product = _integer_product(hidden, weight).to(hidden.dtype)
            return product if bias is None else product + bias
        if hidden.device.type != "cpu" or hidden.dtype.itemsize != 2:
            return functional.linear(hidden, weight, bias)
        # oneDNN keeps about 1 MB for each number of rows that it has seen, up to 1,024 of them.
        padding = -len(hidden) % ROWS_MULTIPLE
        return functional.linear(functional.pad(hidden, (0, 0, 0, padding)), weight, bias)[: len(hidden)]

    def rms_norm(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` and normalise."""
        total = hidden if residual is None else hidden + residual
        return _rms_norm(total, weight, eps), total

    def layer_norm(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` and normalise (Ba et al., Layer Normalization, 2016), in float32 where input is of 16 bits."""
        total = hidden if residual is None else hidden + residual
        return functional.layer_norm(total, total.shape[-1:], weight, bias, eps), total

    def activation(self, hidden: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
        """Each element's activation."""
        return ACTIVATIONS[kind](hidden)

    def activation_and_mul(self, gate_up: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
        """`[num_tokens, 2 * width]` -> `[num_tokens, width]`: activation(first half) * second half."""
        gate, up = gate_up.chunk(2, dim=-1)
        return ACTIVATIONS[kind](gate) * up

    def experts(
        self,
        hidden: torch.Tensor,
        router: torch.Tensor,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        num_chosen: int,
        kind: ActivationKind,
    ) -> torch.Tensor:
        """Expert by expert, its tokens together: `Kernels.experts` gives the shapes."""
        wide = accumulation_dtype(hidden.dtype)
        scores = functional.linear(hidden.to(wide), router.to(wide))
        highest, chosen = scores.topk(num_chosen, dim=-1)
        shares = highest.softmax(dim=-1)
        total = torch.zeros_like(hidden, dtype=wide)
        for expert, (inner, outer) in enumerate(zip(gate_up, down, strict=True)):
            tokens, places = torch.where(chosen == expert)
            if len(tokens):
                activated = self.activation_and_mul(self.linear(hidden[tokens], inner), kind)
                result = self.linear(activated, outer) * shares[tokens, places].unsqueeze(1)
                total.index_add_(0, tokens, result.to(wide))
        return total.to(hidden.dtype)

    def all_reduce(self, hidden: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """The sum over all ranks."""
        return ranks.all_reduce(hidden)

    def gather(self, logits: torch.Tensor, ranks: Ranks, width: int) -> torch.Tensor:
        """`[n, own]` of every rank -> `[n, width]` on rank 0."""
        return ranks.gather(logits, width)

    def attention(self, qkv: torch.Tensor, context: ForwardContext, spec: AttentionSpec) -> torch.Tensor:
        """Normalise, rotate, write, attend: `Kernels.attention` gives the shapes."""
        heads = qkv.view(len(qkv), -1, spec.head_dim)
        parts = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        query, key, value = torch.split_with_sizes(heads, parts, dim=1)
        if spec.query_norm is not None:
            query = _rms_norm(query, spec.query_norm, spec.norm_eps)
        if spec.key_norm is not None:
            key = _rms_norm(key, spec.key_norm, spec.norm_eps)
        if spec.cos_sin is not None:
            query, key = rotary(query, key, context.batch.positions, spec.cos_sin)
        write_kv(context.metadata, spec.layer, key, value)
        attended = paged_attention(
            query, context.metadata, spec.layer, scale=spec.scale, kind=spec.kind, softcap=spec.softcap
        )
        return attended.flatten(1)

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """A token a row, or a beam's candidates."""
        return sample(logits, batch)

    def score(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
        """Log-probabilities and ranks of given tokens."""
        return score_tokens(logits, token_ids, num_top)


def rotary(
    query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary position embedding (Su et al., RoFormer, 2021), computed in the wider of the two dtypes.

    The halves of the first `rotary_dim` dimensions of each head are rotated (the Hugging Face convention).

    Args:
        query, key: `[num_tokens, heads, head_dim]`.
        cos_sin: `[max_positions, rotary_dim]`.
    """
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square normalisation over the last dimension (Zhang and Sennrich, 2019).

    16-bit input is normalised in float32 and rounded to the dtype of `weight` before the product with it: to 16 bits,
    as Hugging Face's LLaMA does, or not at all, as its Gemma does, where the weight is float32.
    """
    normalised = functional.rms_norm(hidden.to(accumulation_dtype(hidden.dtype)), hidden.shape[-1:], eps=eps)
    return (normalised.to(weight.dtype) * weight).to(hidden.dtype)


def _rows(weight: Weight, rows: torch.Tensor) -> torch.Tensor:
    if isinstance(weight, GroupedWeight):
        return weight.dequantized(rows).to(weight.dtype)
    if isinstance(weight, QuantizedWeight):
        return (weight.values[rows].to(torch.float32) * weight.scales[rows].unsqueeze(1)).to(weight.dtype)
    return functional.embedding(rows, weight)


def _integer_product(hidden: torch.Tensor, weight: QuantizedWeight | GroupedWeight) -> torch.Tensor:
    if isinstance(weight, GroupedWeight):
        return grouped_product(hidden, weight)
    total = torch.zeros(len(hidden), len(weight.scales), device=hidden.device)
    group = weight.format.group
    groups = zip(torch.split(hidden, group, 1), torch.split(weight.values, group, 1), strict=True)
    for own, own_weights in groups:
        values, scales = quantize_rows(own, weight.format)
        total += exact_products(values, own_weights).to(torch.float32) * scales.unsqueeze(1)
    return total * weight.scales


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate `heads` `[num_tokens, heads, head_dim]` by angles given as `[num_tokens, 1, rotary_dim / 2]`."""
    half = cos.shape[-1]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    rotated = (first * cos - second * sin, second * cos + first * sin, heads[..., 2 * half :])
    return torch.cat(rotated, dim=-1).to(heads.dtype)
