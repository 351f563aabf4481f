"""A queue on the CPU that behaves like a GPU's: what comes to the host is garbage until it has been waited for."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class LateMarker:
    """Delivers, when waited for, what was on its way where it was made."""

    queue: "LateQueue"
    number: int
    """Of copies before it."""
    num_marks: int
    seconds: float

    def wait(self) -> None:
        self.queue.num_late += self.queue.num_marks > self.num_marks
        self.queue.deliver(self.number)

    def is_over(self) -> bool:
        return self.queue.num_delivered >= self.number

    def seconds_since(self, earlier: "LateMarker") -> float:
        assert self.queue.num_delivered >= self.number, "read before it was waited for"
        return self.seconds - earlier.seconds

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.queue.num_beside += 1
        yield


class LateQueue:
    """The device's work is done at once, and told late."""

    runs_ahead = True

    def __init__(self) -> None:
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.num_delivered = 0
        self.num_marks = 0
        self.num_late = 0
        """Waits that began when more had been queued behind."""
        self.num_beside = 0

    def mark(self) -> LateMarker:
        self.num_marks += 1
        return LateMarker(self, self.num_delivered + len(self._copies), self.num_marks, time.perf_counter())

    def host_buffer(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int64)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        garbage = torch.full_like(tensor, 1 if tensor.dtype == torch.bool else 2**30)
        self._copies.append((garbage, tensor.clone()))
        return garbage

    @torch.inference_mode()
    def deliver(self, number: int) -> None:
        """Fill in the copies up to one."""
        count = max(0, number - self.num_delivered)
        for copy, tensor in self._copies[:count]:
            copy.copy_(tensor)
        del self._copies[:count]
        self.num_delivered += count
