"""The registry of kernel backends: which one serves a device and its dtypes, and why."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from octavo.config import Quantization
from octavo.errors import ConfigError
from octavo.kernels.interface import Kernels

FP8_CAPABILITY = (8, 9)
"""Of the first GPUs that multiply fp8."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a backend is asked to serve."""

    device: torch.device
    dtype: torch.dtype
    """Of weights and activations."""
    cache_dtype: torch.dtype
    quantization: Quantization = "none"
    """Of the weights that products read."""
    num_threads: int | None = None
    """Of a backend with threads of its own; by default as many as torch has."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run the operations. Its functions import what they need: a backend that isn't used costs nothing."""

    name: str
    why_not: Callable[[Needs], str | None]
    """Why it cannot serve these needs, as half a sentence; None where it can."""
    load: Callable[[Needs], Kernels]
    only_named: Callable[[Needs], bool] = lambda needs: False
    """Whether `auto` passes it over, as there it is for tests alone."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The backend that serves, and one sentence on why it was chosen."""

    kernels: Kernels
    why: str
    is_fallback: bool = False
    """Whether none of the fast ones could serve."""


def _load_reference(needs: Needs) -> Kernels:
    from octavo.kernels.reference import ReferenceKernels

    return ReferenceKernels()


def _load_cpu(needs: Needs) -> Kernels:
    from octavo.kernels.cpu import CpuKernels

    return CpuKernels(num_threads=needs.num_threads)


def _why_not_cpu(needs: Needs) -> str | None:
    if needs.device.type != "cpu":
        return "are for processors"
    if torch.float64 in (needs.dtype, needs.cache_dtype):
        return "have no float64"
    if needs.cache_dtype == torch.float8_e4m3fn:
        return "have no fp8 KV cache (--kv-cache-dtype int8 is of the same size)"
    if needs.quantization == "fp8":
        return "have no fp8 weights (--quantization int8 has as few bits)"
    return why_not_built()


def _load_triton(needs: Needs) -> Kernels:
    from octavo.kernels.triton.kernels import TritonKernels

    return TritonKernels()


def _why_not_triton(needs: Needs) -> str | None:
    if needs.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "are for CUDA GPUs (on a CPU they run with TRITON_INTERPRET=1, for tests)"
    if torch.float64 in (needs.dtype, needs.cache_dtype):
        return "have no float64"
    if needs.quantization == "int4":
        return "have no weights of 4 bits (--quantization int8 or fp8 has 8)"
    if needs.quantization == "fp8" and needs.device.type == "cuda":
        capability = torch.cuda.get_device_capability(needs.device)
        if capability < FP8_CAPABILITY:
            return (
                f"multiply fp8 weights (--quantization) on GPUs of compute capability "
                f"{'.'.join(map(str, FP8_CAPABILITY))} and above, and this one has {'.'.join(map(str, capability))}"
            )
    return "could not be loaded: triton is not installed" if find_spec("triton") is None else None


def _why_not_reference(needs: Needs) -> str | None:
    on_gpu = needs.device.type != "cpu" and needs.quantization == "int4"
    return "multiply weights of 4 bits on processors only" if on_gpu else None


def why_not_built() -> str | None:
    """Why the C++ extension cannot be loaded, as half a sentence; None where it can."""
    try:
        import octavo.kernels._cpu  # noqa: F401
    except ImportError as error:
        return f"could not be built or loaded ({error})"
    return None


BACKENDS: list[Backend] = [
    Backend("cpu", why_not=_why_not_cpu, load=_load_cpu),
    Backend("triton", why_not=_why_not_triton, load=_load_triton, only_named=lambda needs: needs.device.type == "cpu"),
    Backend("reference", why_not=_why_not_reference, load=_load_reference),
]
"""Best first: the first that can serve is chosen. The reference is last, as it runs almost everything anywhere."""


def select_kernels(needs: Needs, name: str = "auto") -> KernelChoice:
    """The best backend, or the one that is named.

    Raises:
        ConfigError: none can serve, or not the one named.
    """
    refused: list[str] = []
    for backend in BACKENDS:
        if name not in ("auto", backend.name) or (name == "auto" and backend.only_named(needs)):
            continue
        reason = backend.why_not(needs)
        if reason is None:
            kernels = backend.load(needs)
            why = "as asked for (--kernels)" if name != "auto" else "; ".join(refused) or "the fastest there are"
            is_fallback = name == "auto" and backend is BACKENDS[-1]
            slow = " This is many times slower." if is_fallback else ""
            return KernelChoice(kernels, f"Kernels '{kernels.name}' on {needs.device}: {why}.{slow}", is_fallback)
        refused.append(f"'{backend.name}' {reason}")
    if name != "auto":
        names = ", ".join(backend.name for backend in BACKENDS)
        refused.append(f"--kernels is one of auto, {names}")
    raise ConfigError(f"no kernels for device {needs.device}: {'; '.join(refused)}")
