"""A queue on the CPU that behaves like a GPU's: what comes to the host is garbage until it has been waited for, and
what lies in the host's buffers is read late."""

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
        self.queue.num_waited = max(self.queue.num_waited, self.num_marks)
        self.queue.num_late += self.queue.num_marks > self.num_marks
        self.queue.deliver(self.number)

    def is_over(self) -> bool:
        return self.queue.num_waited >= self.num_marks

    def seconds_since(self, earlier: "LateMarker") -> float:
        assert self.queue.num_delivered >= self.number, "read before it was waited for"
        return self.seconds - earlier.seconds

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.queue.num_beside += 1
        yield


class HostBuffer:
    """Memory that the device may read until a marker behind what was last put there has been waited for."""

    def __init__(self, size: int) -> None:
        self.memory = torch.zeros(size, dtype=torch.int64)
        self._last = self.memory.clone()
        self._num_marks = 0

    def has_changed(self, num_marks: int) -> int:
        """Look whether there is something new. Returns the number of marks when there was the last time, or 0."""
        if torch.equal(self.memory, self._last):
            return 0
        self._last = self.memory.clone()
        before, self._num_marks = self._num_marks, num_marks
        return before


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
        self._buffers: list[HostBuffer] = []
        self.num_waited = 0
        """Marks that the host knows to be reached."""
        self.num_torn = 0
        """Changes of a buffer that the device may not have read yet."""

    def mark(self) -> LateMarker:
        self.num_marks += 1
        self.num_torn += sum(buffer.has_changed(self.num_marks) > self.num_waited for buffer in self._buffers)
        return LateMarker(self, self.num_delivered + len(self._copies), self.num_marks, time.perf_counter())

    def host_buffer(self, size: int) -> torch.Tensor:
        self._buffers.append(HostBuffer(size))
        return self._buffers[-1].memory

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
