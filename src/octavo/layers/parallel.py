"""How a model is split over processes, and what each rank holds of a dimension (Megatron-LM, Shoeybi et al., 2019)."""

from dataclasses import dataclass

import torch
from torch import distributed

from octavo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """This process's place among those that hold one model together. With `size` 1 nothing is sent.

    With more, torch.distributed's default process group has `size` members and this process is its `rank`.
    """

    rank: int = 0
    size: int = 1

    def share(self, num_units: int, what: str, *, replicate: bool = False) -> range:
        """The units of a dimension that this rank holds; neighbouring ranks hold neighbouring units.

        Args:
            num_units: what may not be cut further: heads, or single rows.
            what: the dimension's name, for the error.
            replicate: fewer units than ranks are allowed, and each is held by as many neighbouring ranks.

        Raises:
            ConfigError: the units cannot be shared out evenly.
        """
        if num_units % self.size == 0:
            count = num_units // self.size
            return range(self.rank * count, (self.rank + 1) * count)
        if replicate and self.size % num_units == 0:
            unit = self.rank // (self.size // num_units)
            return range(unit, unit + 1)
        raise ConfigError(
            f"the model's {num_units} {what} cannot be split evenly over {self.size} processes; "
            "change --tensor-parallel-size"
        )

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; `tensor` is overwritten with it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """`[..., n]` of every rank, all of one shape, side by side in rank order: `[..., size * n]`."""
        if self.size == 1:
            return tensor
        pieces = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(pieces, tensor.contiguous())
        return torch.cat(pieces, dim=-1)
