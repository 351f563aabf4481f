"""The registry of kernel backends: which one a device gets, and why."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from octavo.errors import ConfigError
from octavo.kernels.interface import Kernels


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run the operations. Its functions import what they need: a backend that isn't used costs nothing."""

    name: str
    why_not: Callable[[torch.device], str | None]
    """Why it cannot serve a device, as half a sentence; None where it can."""
    load: Callable[[], Kernels]


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The backend that serves a device, and one sentence on why it was chosen."""

    kernels: Kernels
    why: str


def _load_reference() -> Kernels:
    from octavo.kernels.reference import ReferenceKernels

    return ReferenceKernels()


BACKENDS: list[Backend] = [
    Backend("reference", why_not=lambda device: None, load=_load_reference),
]
"""Best first: the first that can serve the device is chosen. The reference is last, as it can serve any."""


def select_kernels(device: torch.device) -> KernelChoice:
    """The best backend for `device`.

    Raises:
        ConfigError: no registered backend can serve it.
    """
    refused: list[str] = []
    for backend in BACKENDS:
        reason = backend.why_not(device)
        if reason is None:
            others = "; ".join(refused) or f"no faster backend is registered for {device.type}"
            return KernelChoice(backend.load(), f"Kernels '{backend.name}' on {device}: {others}.")
        refused.append(f"'{backend.name}' {reason}")
    raise ConfigError(f"no kernels for device {device}: {'; '.join(refused)}")
