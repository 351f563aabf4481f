"""The Triton backend: an NVIDIA GPU's kernels, run operation by operation."""

import torch

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.interface import ForwardPass, Model
from octavo.kernels.operations import ActivationKind
from octavo.kernels.reference import EagerForward, ReferenceKernels
from octavo.kernels.triton import activation, attention, copy, kv_write, norm


class TritonKernels(ReferenceKernels):
    """`kernels.interface.Kernels` on a CUDA device. Products are torch's (cuBLAS), and so is what Triton has no kernel
    for: embedding, layer norm, experts, sampling."""

    name = "triton"

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. One on the host, for swapped blocks, is pinned, so that a device can read it itself.

        Raises:
            ConfigError: there is no attention for a kind of the shape's layers.
        """
        for kind in shape.layer_groups.kinds:
            attention.window_of(kind)
        if device.type == "cpu" and torch.cuda.is_available():
            dimensions = (shape.num_blocks, shape.block_bytes)
            return KVCache(shape, torch.zeros(dimensions, dtype=torch.uint8, pin_memory=True))
        return super().allocate_cache(shape, device)

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records within the device, or to and from the host."""
        devices = (source.records.device, destination.records.device)
        if devices[0] == devices[1]:
            copy.copy_blocks(source, destination, source_ids, destination_ids)
            return
        records = source.records.index_select(0, source_ids.to(devices[0])).to(devices[1])
        destination.records.index_copy_(0, destination_ids.to(devices[1]), records)

    def bind(self, model: Model, cache: KVCache) -> ForwardPass:
        """The model as it is."""
        return EagerForward(model, cache, _extent)

    def rms_norm(
        self, hidden: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` and normalise, in one launch."""
        return norm.rms_norm(hidden.contiguous(), weight, eps, None if residual is None else residual.contiguous())

    def activation_and_mul(self, gate_up: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
        """`[num_tokens, 2 * width]` -> `[num_tokens, width]`, in one launch."""
        return activation.activation_and_mul(gate_up.contiguous(), kind)

    def attention(self, qkv: torch.Tensor, context: ForwardContext, spec: AttentionSpec) -> torch.Tensor:
        """Normalise, rotate and write in one launch; attend in one for the rows with few new tokens, with another where
        their contexts are long, and in one for the others."""
        query = kv_write.write_kv(qkv, context.cache, context.batch, spec)
        return attention.paged_attention(query, context.cache, context.batch, spec, context.metadata).flatten(1)


def _extent(batch: RaggedBatch, cache: KVCache) -> BatchExtent:
    """What launches must know on the host."""
    if batch.extent is not None:
        return batch.extent
    num_new = batch.query_starts.diff()
    return BatchExtent(int(batch.context_lens.max()), int(num_new.max()), int(num_new.min()))
