"""What this process may have of the machine: memory and cores, as the system and the limits on it leave them."""

import math
import os
import platform
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from octavo.errors import ConfigError

MIB = 2**20
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def free_memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Memory that can be taken now: the least of what the system has available, what the limits of the process's
    control groups leave, and what its address space leaves (`ulimit -v`).

    Args:
        cgroups: the folder in which the kernel shows control groups, of version 1 or 2.
        own: the file that says in which of them this process is.
    """
    left = [max(0, limit.bytes - limit.used + limit.given_up) for limit in _memory_limits(cgroups, own)]
    return int(min(psutil.virtual_memory().available, _free_address_space(), *left))


def total_memory_bytes(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """All memory of the machine, or of the tightest of the process's control groups."""
    return int(min([psutil.virtual_memory().total, *(limit.bytes for limit in _memory_limits(cgroups, own))]))


class Cores(NamedTuple):
    """The machine's cores, and what limits how many of them this process may use."""

    in_machine: int
    in_mask: int
    """Those that its affinity mask allows (`taskset`)."""
    quota: float | None
    """Processor time for each second, by the tightest of its control groups; None where none has a quota."""

    @property
    def usable(self) -> int:
        """Whole cores. A part of one, as a quota may leave it, counts as one: threads use it up together."""
        return self.in_mask if self.quota is None else max(1, min(self.in_mask, math.ceil(self.quota)))


def cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Cores:
    """What this process may have of the machine's cores; the arguments are those of `free_memory_bytes`."""
    in_machine = os.cpu_count() or 1
    in_mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else in_machine
    quotas = [quota for group in _groups("cpu", cgroups, own) if (quota := _quota(group)) is not None]
    return Cores(in_machine, in_mask, min(quotas, default=None))


def processor() -> tuple[str, set[str]]:
    """Its name and instruction sets, as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown", set()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def address_space_limit() -> int | None:
    """Bytes of addresses that this process may have (`ulimit -v`); None where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def check_address_space(needed_bytes: float, what: str, or_else: str = "") -> None:
    """Refuse what takes more addresses than this process may still have.

    Args:
        what: takes so many, as the error calls it.
        or_else: what can be done beside raising the limit.

    Raises:
        ConfigError: it does; the message says how much is needed.
    """
    limit, free = address_space_limit(), _free_address_space()
    if limit is not None and needed_bytes > free:
        raise ConfigError(
            f"ulimit -v allows {limit / MIB:,.0f} MiB of address space, and {what} needs about "
            f"{(limit - free + needed_bytes) / MIB:,.0f} MiB: raise it{or_else}"
        )


class _MemoryLimit(NamedTuple):
    """A control group's, and how much of it is used."""

    bytes: int
    used: int
    given_up: int
    """Pages of files, which count as used, but are dropped before memory would be refused."""


def _memory_limits(cgroups: Path, own: Path) -> Iterator[_MemoryLimit]:
    for group in _groups("memory", cgroups, own):
        version_1 = _number(group / "memory.limit_in_bytes")
        limits = (version_1, _number(group / "memory.max"), _number(group / "memory.high"))
        known = [limit for limit in limits if limit is not None]
        used = _number(group / ("memory.current" if version_1 is None else "memory.usage_in_bytes"))
        if known and used is not None:
            yield _MemoryLimit(min(known), used, min(used, _cached_bytes(group)))


def _cached_bytes(group: Path) -> int:
    """The totals of version 1 include the groups below, as all numbers of version 2 do."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(maxsplit=1) for line in lines if " " in line)
    names = ("inactive_file", "active_file")
    return sum(int(fields.get(f"total_{name}", fields.get(name, 0))) for name in names)


def _quota(group: Path) -> float | None:
    """A group's quota of processor time, in cores; None where it has none."""
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    if quota is None:
        try:
            quota, period = (int(field) for field in (group / "cpu.max").read_text().split())
        except (OSError, ValueError):
            return None
    return quota / period if quota > 0 and period else None


def _groups(controller: str, cgroups: Path, own: Path) -> Iterator[Path]:
    """The folders of the process's groups that may limit something, and of those above them up to the root: all limit
    it. A container may see its own group as the root, under a path that is not there."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for hierarchy, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if hierarchy == "0":
            root = cgroups
        elif controller in controllers.split(","):
            root = next((each for each in (cgroups / controllers, cgroups / controller) if each.is_dir()), cgroups)
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:depth])
    if not lines:
        yield cgroups


def _number(file: Path) -> int | None:
    """What a file says; None where it is not there or says no number, as `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _free_address_space() -> float:
    limit = address_space_limit()
    return float("inf") if limit is None else max(0.0, float(limit - psutil.Process().memory_info().vms))
