"""What a container's limit leaves, with the files that the kernel caches counted as free."""

from pathlib import Path

import psutil
import pytest

from octavo.execution.machine import free_memory_bytes

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
    assert free_memory_bytes(container(tmp_path, str(limit * MIB), used * MIB, stat)) == free * MIB


def test_without_a_limit_the_system_says_what_is_free(tmp_path: Path) -> None:
    available = psutil.virtual_memory().available
    for folder in (tmp_path / "none", container(tmp_path, "max", 5 * MIB), container(tmp_path, "???", 5 * MIB)):
        assert free_memory_bytes(folder) > available / 2


def test_a_limit_over_the_whole_machine_frees_no_more_than_the_system_has(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert free_memory_bytes(container(tmp_path, str(10 * total), 0)) <= total
