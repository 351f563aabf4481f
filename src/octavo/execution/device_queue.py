"""How work is handed to a device: what the host need not wait for, and how it waits where it must.

A processor's work is over when the call returns. A GPU takes it into a queue (a CUDA stream), in whose order everything
happens, and the host goes on.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, Self

import torch


class Marker(Protocol):
    """A place in a queue."""

    def wait(self) -> None:
        """Return once all that lies before it has been done."""
        ...

    def is_over(self) -> bool:
        """Whether `wait` would return at once."""
        ...

    def seconds_since(self, earlier: Self) -> float:
        """The time between two places that have been reached."""
        ...

    def beside(self) -> AbstractContextManager[None]:
        """What is queued inside begins at this place, beside what has been queued behind it; what is queued next waits
        for both."""
        ...


class DeviceQueue(Protocol):
    """A device's work in its order."""

    runs_ahead: bool
    """Whether the host goes on while the device works: what it reads has to be copied to it and waited for."""

    def mark(self) -> Marker:
        """The place behind all that has been queued so far."""
        ...

    def host_buffer(self, size: int) -> torch.Tensor:
        """`[size]` int64 on the host, from and to which the device copies by itself."""
        ...

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the host. It may be read once a marker that is made afterwards has been waited for."""
        ...


class HostMarker:
    """A moment: the host has done everything before it."""

    def __init__(self) -> None:
        self._seconds = time.perf_counter()

    def wait(self) -> None:
        """It has been."""

    def is_over(self) -> bool:
        return True

    def seconds_since(self, earlier: Self) -> float:
        return self._seconds - earlier._seconds

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()


class HostQueue:
    """A processor's: every call has done its work when it returns."""

    runs_ahead = False

    def mark(self) -> HostMarker:
        return HostMarker()

    def host_buffer(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int64)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


class CudaMarker:
    """An event on the stream that is current where it is made."""

    def __init__(self, beside: torch.cuda.Stream) -> None:
        self._beside = beside
        # Whoever waits for a blocking event sleeps.
        self._event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> None:
        self._event.synchronize()

    def is_over(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def seconds_since(self, earlier: Self) -> float:
        return float(earlier._event.elapsed_time(self._event)) / 1e3

    @contextmanager
    def beside(self) -> Iterator[None]:
        self._beside.wait_event(self._event)
        with torch.cuda.stream(self._beside):
            yield
        torch.cuda.current_stream().wait_stream(self._beside)


class CudaQueue:
    """A GPU's current stream, and one beside it."""

    runs_ahead = True

    def __init__(self, device: torch.device) -> None:
        self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def mark(self) -> CudaMarker:
        return CudaMarker(self._beside)

    def host_buffer(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.int64, pin_memory=True)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return copy.copy_(tensor, non_blocking=True)


def queue_of(device: torch.device) -> DeviceQueue:
    """How a device takes its work."""
    return HostQueue() if device.type == "cpu" else CudaQueue(device)
