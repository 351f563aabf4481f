"""Files of packed weights: what is read is what was written, or the file is refused."""

import fcntl
import resource
from pathlib import Path

import numpy as np
import pytest

from octavo.kernels.packed_file import DamagedFileError, read_packed_file, write_packed_file

GENERATOR = np.random.default_rng(0)
BLOBS = {f"weight {size}": GENERATOR.integers(0, 256, size, np.uint8) for size in (1, 63, 4096, 3_000_001)}


def written(path: Path) -> Path:
    assert write_packed_file(path, "key", BLOBS)
    return path


def test_blobs_are_read_as_they_were_written(tmp_path: Path) -> None:
    counted: list[int] = []
    assert write_packed_file(tmp_path / "a.packed", "key", BLOBS, counted.append)
    found = read_packed_file(tmp_path / "a.packed", "key")
    assert found is not None
    assert list(found) == list(BLOBS)
    assert all(np.array_equal(found[name], blob) for name, blob in BLOBS.items())
    assert not any(blob.flags.writeable for blob in found.values())
    assert sum(counted) == sum(map(len, BLOBS.values()))
    assert [path.name for path in tmp_path.iterdir()] == ["a.packed"]


def test_a_file_for_another_key_or_none_gives_nothing(tmp_path: Path) -> None:
    assert read_packed_file(written(tmp_path / "a.packed"), "another key") is None
    assert read_packed_file(tmp_path / "b.packed", "key") is None


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 0.99999, 1.0])
def test_a_changed_byte_is_damage_wherever_it_counts(tmp_path: Path, place: float) -> None:
    path = written(tmp_path / "a.packed")
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 16
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read_packed_file(path, "key")


@pytest.mark.parametrize("length", [0, 10, 100_000, -1])
def test_a_file_that_is_cut_short_is_damage(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "a.packed")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFileError):
        read_packed_file(path, "key")


def test_what_is_mapped_stays_when_the_file_is_replaced(tmp_path: Path) -> None:
    found = read_packed_file(written(tmp_path / "a.packed"), "key")
    assert write_packed_file(tmp_path / "a.packed", "new key", {"other": np.zeros(5000, np.uint8)})
    assert found is not None
    assert all(np.array_equal(found[name], blob) for name, blob in BLOBS.items())


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.packed"
    with (tmp_path / "a.packed.part").open("wb") as other:
        other.write(b"half of it")
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not write_packed_file(path, "key", BLOBS)
        assert not path.exists()
    assert write_packed_file(path, "key", BLOBS), "what a process has left that ended while writing is in nobody's way"
    assert read_packed_file(path, "key") is not None


def test_nothing_is_left_of_a_file_that_cannot_be_written_whole(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_packed_file(tmp_path / "a.packed", "key", BLOBS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
