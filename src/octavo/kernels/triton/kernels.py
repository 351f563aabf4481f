"""The Triton backend: an NVIDIA GPU's kernels, run operation by operation."""

from collections.abc import Sequence

import torch

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.grouped import GroupedWeight
from octavo.kernels.interface import ForwardPass, Model
from octavo.kernels.operations import ActivationKind, DenseWeight, Weight
from octavo.kernels.packed_weights import PackedWeights
from octavo.kernels.quantized import QuantizedWeight
from octavo.kernels.reference import EagerForward, ReferenceKernels
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores
from octavo.kernels.triton import activation, attention, copy, embedding, experts, kv_write, norm, products, sampling
from octavo.kernels.triton.graphs import CapturedForward
from octavo.kernels.triton.logprobs import score_tokens
from octavo.kernels.triton.pinned import pinned_zeros


class TritonKernels(ReferenceKernels):
    """`kernels.interface.Kernels` on a CUDA device. Products with weights of 16 or 32 bits are torch's (cuBLAS), and so
    is what Triton has no kernel for: the sum of two activations, plain activations and weights in groups."""

    name = "triton"
    has_grouped_weights = False

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. One on the host, for swapped blocks, is pinned, so that a device can read it itself.

        Raises:
            ConfigError: there is no attention for a kind of the shape's layers, or the system does not pin so much.
        """
        for kind in shape.layer_groups.kinds:
            attention.window_of(kind)
        if device.type == "cpu" and torch.cuda.is_available():
            return KVCache(shape, pinned_zeros(shape.num_blocks, shape.block_bytes))
        return super().allocate_cache(shape, device)

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records within the device, or to and from the host, in one launch. Ids may be on the host."""
        copy.copy_blocks(source, destination, source_ids, destination_ids)

    def bind(
        self, model: Model, cache: KVCache, max_captured_rows: int = 0, packed: PackedWeights | None = None
    ) -> ForwardPass:
        """The model as it is; decode steps as CUDA graphs, where they may be."""
        eager = EagerForward(model, cache, _extent, sampling.most_likely)
        if not max_captured_rows:
            return eager
        return CapturedForward(eager, max_captured_rows, (cache.shape.num_blocks - 1) * cache.shape.block_size)

    def embedding(self, ids: torch.Tensor, weight: Weight, scale: float = 1.0, *, first_id: int = 0) -> torch.Tensor:
        """Rows by their ids, in one launch."""
        if isinstance(weight, GroupedWeight):
            return super().embedding(ids, weight, scale, first_id=first_id)
        return embedding.embedding(ids.contiguous(), weight, scale, first_id=first_id)

    def linear(
        self, hidden: torch.Tensor, weight: Weight | Sequence[Weight], bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`[num_tokens, in_features]` -> `[num_tokens, out_features]`: torch's product, or two launches where the
        weight is quantized."""
        if isinstance(weight, QuantizedWeight):
            return products.linear(hidden.contiguous(), weight, bias)
        return super().linear(hidden, weight, bias)

    def rms_norm(
        self, hidden: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` and normalise, in one launch."""
        return norm.rms_norm(hidden.contiguous(), weight, eps, None if residual is None else residual.contiguous())

    def layer_norm(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` and normalise, in one launch."""
        residual = None if residual is None else residual.contiguous()
        return norm.layer_norm(hidden.contiguous(), weight, bias, eps, residual)

    def activation_and_mul(self, gate_up: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
        """`[num_tokens, 2 * width]` -> `[num_tokens, width]`, in one launch."""
        return activation.activation_and_mul(gate_up.contiguous(), kind)

    def experts(
        self,
        hidden: torch.Tensor,
        router: torch.Tensor,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        num_chosen: int,
        kind: ActivationKind,
    ) -> torch.Tensor:
        """Rows grouped by expert on the device, and two products of all groups."""
        inner, outer = _dense(gate_up), _dense(down)
        if inner is None or outer is None:
            return super().experts(hidden, router, gate_up, down, num_chosen, kind)
        return experts.experts(hidden.contiguous(), router, inner, outer, num_chosen, kind)

    def attention(self, qkv: torch.Tensor, context: ForwardContext, spec: AttentionSpec) -> torch.Tensor:
        """Normalise, rotate and write in one launch; attend in one for the rows with few new tokens, with another where
        their contexts are long, and in one for the others."""
        query = kv_write.write_kv(qkv, context.cache, context.batch, spec)
        return attention.paged_attention(query, context.cache, context.batch, spec, context.metadata).flatten(1)

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """A token a row, or a beam's candidates, in a few launches that wait for nothing."""
        return sampling.sample(logits, batch)

    def score(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
        """Log-probabilities and ranks of given tokens, without waiting."""
        return score_tokens(logits, token_ids, num_top)


def _dense(weights: Sequence[Weight]) -> list[DenseWeight] | None:
    """The weights, where all are dense."""
    dense = [weight for weight in weights if not isinstance(weight, GroupedWeight)]
    return dense if len(dense) == len(weights) else None


def _extent(batch: RaggedBatch, cache: KVCache) -> BatchExtent:
    """What launches must know on the host."""
    if batch.extent is not None:
        return batch.extent
    num_new = batch.query_starts.diff()
    num_shared = 0 if batch.shared is None else int(batch.shared.sum())
    return BatchExtent(int(batch.context_lens.max()), int(num_new.max()), int(num_new.min()), num_shared)
