"""A file of packed weights, to be mapped: blobs by name, then an index with their checksums.

    blobs       each from a multiple of `ALIGNMENT` on
    index       JSON: the key, and [start, bytes, checksum] of each blob by name
    trailer     the index's length and checksum, 8 bytes each, then `MAGIC`

The trailer comes last, so that a file that was cut short has none.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.kernels import _cpu
from octavo.kernels.loading_threads import loading_threads

Bytes = NDArray[np.uint8]

ALIGNMENT = 1 << 16
"""A multiple of any system's pages."""
MAGIC = b"OCTAVOPK"
WRITTEN_AT_ONCE = 16 << 20
_TRAILER = struct.Struct("<QQ8s")


class DamagedFileError(ModelError):
    """A file is not what it says, or not a file of packed weights."""


class _Index(msgspec.Struct):
    key: str
    blobs: dict[str, tuple[int, int, int]]


def read_packed_file(path: Path, key: str) -> dict[str, Bytes] | None:
    """The blobs of a file, mapped and checked to be what was written: each `[bytes]` uint8, read only. They share
    their memory with every other process that maps the file, and stay as they are when it is replaced.

    Args:
        key: what the file must have been written for.

    Returns:
        None: there is no such file, or it was written for another key.

    Raises:
        DamagedFileError: it is cut short or changed.
        OSError: it cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < _TRAILER.size:
            raise DamagedFileError("it is cut short")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_WILLNEED"):
        memory.madvise(mmap.MADV_WILLNEED)  # the disk reads ahead of the checksums
    mapped = np.frombuffer(memory, np.uint8)
    index = _read_index(mapped)
    if index.key != key:
        return None
    blobs = {}
    for name, (start, num_bytes, checksum) in index.blobs.items():
        blob = mapped[start : start + num_bytes]
        if len(blob) != num_bytes or _checksum(blob) != checksum:
            raise DamagedFileError(f"its weight {name!r} is not what was written")
        blobs[name] = blob
    return blobs


def write_packed_file(
    path: Path, key: str, blobs: Mapping[str, Bytes], written: Callable[[int], object] = lambda _: None
) -> bool:
    """Write a file under another name, then put it in the place of the one that is there, if any.

    Args:
        written: told the number of bytes as they are written.

    Returns:
        False: another process is writing it.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    part = path.with_name(f"{path.name}.part")
    file = _open_locked(part)
    if file is None:
        return False
    with file:
        try:
            _write(file, key, blobs, written)
            file.flush()
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    return True


def _checksum(blob: Bytes) -> int:
    return _cpu.checksum(loading_threads(), blob)


def _read_index(mapped: Bytes) -> _Index:
    length, checksum, magic = _TRAILER.unpack(mapped[-_TRAILER.size :].tobytes())
    if magic != MAGIC:
        raise DamagedFileError("it is cut short, or no file of packed weights")
    end = len(mapped) - _TRAILER.size
    encoded = mapped[max(0, end - length) : end]
    if len(encoded) != length or _checksum(encoded) != checksum:
        raise DamagedFileError("its index is not what was written")
    try:
        return msgspec.json.decode(encoded.tobytes(), type=_Index)
    except msgspec.MsgspecError as error:
        raise DamagedFileError(f"its index cannot be read: {error}") from error


def _open_locked(part: Path) -> IO[bytes] | None:
    """The file that is being written, empty and this process's alone; None where it is another's.

    Whoever holds its lock writes it. A file without one was left by a process that has ended.
    """
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
        file = os.fdopen(descriptor, "wb")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking it, another process may have finished it and given it its name.
            if os.path.samestat(os.fstat(descriptor), os.stat(part)):
                file.truncate(0)
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _write(file: IO[bytes], key: str, blobs: Mapping[str, Bytes], written: Callable[[int], object]) -> None:
    places = {}
    for name, blob in blobs.items():
        file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
        places[name] = (file.tell(), len(blob), _checksum(blob))
        for start in range(0, len(blob), WRITTEN_AT_ONCE):
            written(file.write(blob[start : start + WRITTEN_AT_ONCE].data))
    encoded = msgspec.json.encode(_Index(key, places))
    file.write(encoded)
    file.write(_TRAILER.pack(len(encoded), _checksum(np.frombuffer(encoded, np.uint8)), MAGIC))
