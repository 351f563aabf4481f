"""What this machine has: free memory and cores."""

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that can be taken now: what the system has available, or what a container's limit leaves of it.

    `cgroup` is the folder in which the kernel tells a container's limit (version 2).
    """
    return int(min(psutil.virtual_memory().available, _cgroup_headroom_bytes(cgroup)))


def total_memory_bytes() -> int:
    """All memory of the machine."""
    return int(psutil.virtual_memory().total)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_headroom_bytes(cgroup: Path) -> float:
    """What the limit leaves; infinite where there is none. Cached files are counted as used, but given up on demand."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        return float("inf") if limit == "max" else max(0, int(limit) - used + min(used, _cached_bytes(cgroup)))
    except (OSError, ValueError):
        return float("inf")


def _cached_bytes(cgroup: Path) -> int:
    """Pages of files, which the kernel drops before it would refuse memory."""
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split() for line in lines)
    return int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
