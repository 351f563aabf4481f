"""How a model is split over processes, and what each rank holds of a dimension (Megatron-LM, Shoeybi et al., 2019)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed
from torch.nn import functional

from octavo.errors import ConfigError, LostRankError

LARGEST_SIZE_NAMED = 64
"""Numbers of processes that an error proposes."""


@dataclass(frozen=True, slots=True)
class TensorParallel:
    """This process's place among those that hold one model together. With `size` 1 nothing is sent.

    With more, torch.distributed's default process group has `size` members and this process is its `rank`. What
    tensors are on says what a collective goes through (`execution/process_group.py`); on a GPU it takes its place in
    the stream, and nothing waits for it.
    """

    rank: int = 0
    size: int = 1

    def shard(self, num_units: int, what: str, *, replicate: bool = False) -> range:
        """The units of a dimension that this rank holds; neighbouring ranks hold neighbouring units.

        Args:
            num_units: what may not be cut further: heads, or single rows.
            what: the dimension's name, for the error.
            replicate: fewer units than ranks are allowed, and each is held by as many neighbouring ranks.

        Raises:
            ConfigError: the units cannot be split evenly.
        """
        if num_units % self.size == 0:
            count = num_units // self.size
            return range(self.rank * count, (self.rank + 1) * count)
        if replicate and self.size % num_units == 0:
            unit = self.rank // (self.size // num_units)
            return range(unit, unit + 1)
        raise self._refusal(num_units, what)

    def uneven_shard(self, num_units: int, what: str) -> range:
        """As `shard`, but the last ranks may hold fewer units than `ceil(num_units / size)`.

        Raises:
            ConfigError: one would hold none.
        """
        most = -(-num_units // self.size)
        if most * (self.size - 1) >= num_units:
            raise self._refusal(num_units, what)
        return range(self.rank * most, min(num_units, (self.rank + 1) * most))

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; `tensor` is overwritten with it.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size > 1:
            with self._together():
                distributed.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor, width: int) -> torch.Tensor:
        """`[n, own]` of every rank side by side, in rank order: `[n, width]` on rank 0; others get their own back.

        `width` is split as by `uneven_shard`.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size == 1:
            return tensor
        padded = functional.pad(tensor, (0, -(-width // self.size) - tensor.shape[-1])).contiguous()
        pieces = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == 0 else None
        with self._together():
            distributed.gather(padded, pieces)
        return tensor if pieces is None else torch.cat(pieces, dim=-1)[:, :width]

    def from_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's `tensor`, on all ranks; the others' are overwritten with it.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size > 1:
            with self._together():
                distributed.broadcast(tensor, 0)
        return tensor

    def smallest(self, value: Callable[[], int]) -> int:
        """The smallest of all ranks' values, which each takes once all have come here.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size == 1:
            return value()
        with self._together():
            distributed.all_reduce(torch.zeros(1))  # a barrier of torch's own may go by way of a GPU
            tensor = torch.tensor(value())
            distributed.all_reduce(tensor, distributed.ReduceOp.MIN)
        return int(tensor)

    def _refusal(self, num_units: int, what: str) -> ConfigError:
        sizes = [str(size) for size in range(1, min(num_units, LARGEST_SIZE_NAMED) + 1) if num_units % size == 0]
        return ConfigError(
            f"the model's {num_units} {what} cannot be split evenly over {self.size} processes; "
            f"change --tensor-parallel-size: they divide by {', '.join(sizes)}"
        )

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Tell a peer's end, which ends a collective, from an error of this rank's own."""
        try:
            yield
        except RuntimeError as error:
            raise LostRankError(f"rank {self.rank} has lost another: {error}") from error
