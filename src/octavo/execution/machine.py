"""What this machine has: free memory and cores."""

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes() -> int:
    """Memory that can be taken now: what the system has available, or what a container's limit leaves of it."""
    return int(min(psutil.virtual_memory().available, _cgroup_headroom_bytes()))


def total_memory_bytes() -> int:
    """All memory of the machine."""
    return int(psutil.virtual_memory().total)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_headroom_bytes() -> float:
    """What a cgroup's limit (version 2) leaves; infinite where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if limit == "max" else max(0, int(limit) - used)
