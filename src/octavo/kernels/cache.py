"""The KV cache: one allocation of equal records, and the shape that says what is in them."""

from dataclasses import dataclass

import torch

from octavo.layer_groups import LayerGroups


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
    """A floating dtype of 16 bits or more, float8_e4m3fn, or int8."""

    @property
    def num_groups(self) -> int:
        """Groups of layers: a row has a block table for each."""
        return len(self.layer_groups.groups)

    @property
    def num_layers(self) -> int:
        """Places for layers in one record."""
        return self.layer_groups.layers_a_group

    @property
    def has_scales(self) -> bool:
        """Whether each slot and KV head has a float32 scale for its K and one for its V."""
        return self.dtype == torch.int8

    @property
    def block_bytes(self) -> int:
        """Bytes of one record, with its scales where it has any."""
        vectors = 2 * self.num_layers * self.block_size * self.num_kv_heads
        scale_bytes = 4 if self.has_scales else 0
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
