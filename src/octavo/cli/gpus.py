"""What `octavo doctor` tells of the GPUs that torch finds, and of the software between."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from octavo.execution.budgets import MIB, DeviceUse

DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def gpu_rows() -> dict[str, str]:
    """A line for each GPU; none where there is none."""
    if not torch.cuda.is_available():
        return {}
    return {f"GPU cuda:{index}": _gpu(index) for index in range(torch.cuda.device_count())}


def _gpu(index: int) -> str:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    return (
        f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}, "
        f"{free / MIB:,.0f} MiB free of {total / MIB:,.0f} MiB"
    )


def software_rows(driver_version: Path = DRIVER_VERSION) -> dict[str, str]:
    """What kernels for a GPU need, as far as it is there."""
    rows = {"CUDA": f"{torch.version.cuda}, of torch"} if torch.version.cuda else {}
    try:
        rows["triton"] = version("triton")
    except PackageNotFoundError:
        rows["triton"] = "not installed"
    try:
        found = re.search(r"Module.*?\s(\d+\.\d[\d.]*)", driver_version.read_text())
    except OSError:
        found = None
    return rows | ({"NVIDIA driver": found[1]} if found else {})


def memory_rows(use: DeviceUse, share: float, num_bytes: int) -> dict[str, str]:
    """What a rank's GPU is taken for.

    Args:
        use: with weights, and the rest estimated.
        share: that Octavo may take in all.
        num_bytes: that would be good to have for the KV cache.
    """
    return dict(_memory(use, share, num_bytes))


def _memory(use: DeviceUse, share: float, num_bytes: int) -> Iterator[tuple[str, str]]:
    yield "all of it", f"{use.total / MIB:,.0f} MiB, {share:.0%} for Octavo at the most (--gpu-memory-utilization)"
    yield "others, and CUDA itself", f"{use.others / MIB:,.0f} MiB"
    yield "weights and tables", f"{use.weights / MIB:,.1f} MiB"
    yield "a step's work", f"{use.step / MIB:,.0f} MiB (an estimate: it is measured when the model is loaded)"
    yield "CUDA graphs", f"{use.graphs / MIB:,.0f} MiB (an estimate)"
    yield "left for the KV cache", f"{max(0, use.room(share)) / MIB:,.0f} MiB"
    if use.room(share) < num_bytes:
        fitting = use.share_for(num_bytes)
        yield (
            "one full sequence",
            f"takes {num_bytes / MIB:,.0f} MiB of it: "
            + ("no share has so much" if fitting is None else f"--gpu-memory-utilization {fitting:g} would fit"),
        )
