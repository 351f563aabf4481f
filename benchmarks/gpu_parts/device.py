"""What is measured on."""

import platform
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
import triton

from gpu_parts.bench import Bench
from octavo.config import EngineConfig


def told(bench: Bench) -> Iterator[tuple[str, Any]]:
    """The device, the versions, and which of Octavo's GPU knobs there are."""
    yield "versions", {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    if bench.is_cuda:
        properties = torch.cuda.get_device_properties(0)
        yield "name", properties.name
        yield "multiprocessors", properties.multi_processor_count
        yield "memory_bytes", properties.total_memory
        yield "l2_bytes", properties.L2_cache_size
        yield "cuda", torch.version.cuda
    if bench.stood_in:
        yield "packages stood in for", bench.stood_in
    asked = ("cuda_graphs", "steps_in_flight", "gpu_memory_utilization")
    known = {field.name: field.default for field in fields(EngineConfig)}
    yield "knobs", {name: known.get(name, "not there") for name in asked}
