"""What control groups leave, with the files that the kernel caches counted as free."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from octavo.execution.machine import Cores, cores, free_memory_bytes, total_memory_bytes

MIB = 2**20
STAT = f"anon {8 * MIB}\nfile {60 * MIB}\ninactive_file {20 * MIB}\nactive_file {10 * MIB}\nslab 4096\n"


def container(folder: Path, limit: str, used: int, stat: str | None = STAT) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    if stat is not None:
        (folder / "memory.stat").write_text(stat)
    return folder


@pytest.mark.parametrize(
    ("limit", "used", "stat", "free"),
    [
        (100, 60, STAT, 70),
        (100, 60, None, 40),
        (100, 60, "anon 5\n", 40),
        (100, 110, STAT, 20),
        (100, 12, STAT, 100),
        (100, 200, None, 0),
    ],
)
def test_the_limit_leaves_what_is_not_used_and_what_caches_give_up(
    limit: int, used: int, stat: str | None, free: int, tmp_path: Path
) -> None:
    assert free_memory_bytes(container(tmp_path, str(limit * MIB), used * MIB, stat), tmp_path / "none") == free * MIB


def test_without_a_limit_the_system_says_what_is_free(tmp_path: Path) -> None:
    available = psutil.virtual_memory().available
    for folder in (tmp_path / "none", container(tmp_path, "max", 5 * MIB), container(tmp_path, "???", 5 * MIB)):
        assert free_memory_bytes(folder, tmp_path / "no list") > available / 2


def test_a_limit_over_the_whole_machine_frees_no_more_than_the_system_has(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert free_memory_bytes(container(tmp_path, str(10 * total), 0), tmp_path / "none") <= total


def write(folder: Path, **files: object) -> None:
    """Files of a control group; two underscores in a name stand for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def own_groups(folder: Path, *lines: str) -> Path:
    (folder / "own").write_text("".join(f"{line}\n" for line in lines))
    return folder / "own"


def test_the_tightest_group_of_all_levels_counts_in_version_2(tmp_path: Path) -> None:
    own = own_groups(tmp_path, "0::/system.slice/octavo.service")
    write(tmp_path, memory__max=900 * MIB, memory__current=100 * MIB, cpu__max="max 100000")
    service = tmp_path / "system.slice" / "octavo.service"
    write(service, memory__max=500 * MIB, memory__current=50 * MIB, cpu__max="150000 100000")
    write(service.parent, memory__max="max", memory__current=99 * MIB, cpu__max="900000 100000")
    assert free_memory_bytes(tmp_path, own) == 450 * MIB
    assert total_memory_bytes(tmp_path, own) == 500 * MIB
    in_mask = len(os.sched_getaffinity(0))
    assert cores(tmp_path, own) == Cores(os.cpu_count() or 1, in_mask, quota=1.5)
    assert cores(tmp_path, own).usable == min(2, in_mask)
    write(service.parent, memory__max=300 * MIB, cpu__max="20000 100000")
    assert free_memory_bytes(tmp_path, own) == 201 * MIB
    assert cores(tmp_path, own).usable == 1, "a part of a core is one thread"
    write(service, memory__high=60 * MIB)
    assert free_memory_bytes(tmp_path, own) == 10 * MIB


@pytest.mark.parametrize("cpu", ["cpu", "cpu,cpuacct"])
def test_the_tightest_group_of_all_levels_counts_in_version_1(tmp_path: Path, cpu: str) -> None:
    own = own_groups(tmp_path, "9:name=systemd:/", "4:memory:/a/b", f"1:{cpu}:/a", "0::/")
    usage = {"memory__usage_in_bytes": 200 * MIB}
    write(tmp_path / "memory", memory__limit_in_bytes=9223372036854771712, **usage)
    write(tmp_path / "memory" / "a", memory__limit_in_bytes=800 * MIB, **usage)
    write(tmp_path / "memory" / "a" / "b", memory__limit_in_bytes=9223372036854771712, **usage)
    write(tmp_path / cpu, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(tmp_path / cpu / "a", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    assert free_memory_bytes(tmp_path, own) == 600 * MIB
    assert cores(tmp_path, own).usable == 1
    stat = f"inactive_file 1\ntotal_inactive_file {100 * MIB}\ntotal_active_file {50 * MIB}"
    write(tmp_path / "memory" / "a", memory__stat=stat)
    assert free_memory_bytes(tmp_path, own) == 750 * MIB


def test_a_container_that_sees_its_own_group_as_the_root_is_limited_by_that(tmp_path: Path) -> None:
    own = own_groups(tmp_path, "4:memory:/docker/0123", "0::/../..")
    write(tmp_path / "memory", memory__limit_in_bytes=64 * MIB, memory__usage_in_bytes=4 * MIB)
    assert free_memory_bytes(tmp_path, own) == 60 * MIB
    write(tmp_path, memory__max=32 * MIB, memory__current=0)
    assert free_memory_bytes(tmp_path, own) == 32 * MIB


def test_an_address_space_limit_counts(tmp_path: Path) -> None:
    code = "from octavo.execution.machine import free_memory_bytes; print(free_memory_bytes())"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 400000; exec {sys.executable} -c '{code}'"], capture_output=True, text=True
    )
    assert 0 < int(done.stdout) < 400_000 * 1024, done.stderr
