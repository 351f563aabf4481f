"""Checks downloaded files against the hub's checksums, each once. Torch-free."""

import hashlib
import os
import re
from pathlib import Path

import msgspec
from tqdm import tqdm

from octavo.errors import ModelError

HASHED_AT_ONCE = 4 << 20
SHOWN_NAMES = 3
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file, as its format says."""


def verify(path: Path, model: str, record: Path) -> None:
    """Compare a file in the hub's cache with its checksum, where it has one: large files do.

    The cache keeps a file under its checksum, a link under its name leads there.

    Args:
        path: the link.
        model: whose file it is, for errors.
        record: folder that remembers what has been verified, so that a start does not read everything twice. If it
            cannot be written, somebody else looks after this cache: nothing is verified.

    Raises:
        ModelError: the file is not what the hub has. It is deleted, so that the next start downloads it again.
    """
    expected = _expected(path)
    if not expected or _is_recorded(path, record / expected) or not os.access(record.parent, os.W_OK):
        return
    found = _sha256(path)
    if found != expected:
        raise ModelError(_discard(path, model, found))
    record.mkdir(exist_ok=True)
    (record / found).touch()


def _expected(path: Path) -> str:
    """The sha256 under which the cache keeps the file; empty where it has another name."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if _SHA256.fullmatch(name) else ""


def _is_recorded(path: Path, mark: Path) -> bool:
    return mark.exists() and mark.stat().st_mtime_ns >= path.stat().st_mtime_ns


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    total = path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(total=total, desc=f"Verifying {path.name}", unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        while piece := file.read(HASHED_AT_ONCE):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


def _discard(path: Path, model: str, found: str) -> str:
    """Delete a file that is wrong. Returns what to say of it."""
    expected, names = _expected(path), _tensor_names(path)
    shown = ", ".join(names[:SHOWN_NAMES]) + (f" and {len(names) - SHOWN_NAMES} more" if names[SHOWN_NAMES:] else "")
    for each in (path.resolve(), path.parent / os.readlink(path), path):
        each.unlink(missing_ok=True)
    return (
        f"{path.name} of {model} has not the hub's checksum (sha256 {found}, not {expected})"
        f"{f', and with it the tensors {shown}' if names else ''}: it was damaged on its way or on the disk, and has "
        "been deleted; start again to download it anew"
    )


def _tensor_names(path: Path) -> list[str]:
    """Of the tensors in a file, as far as it can be read."""
    try:
        if path.suffix == ".gguf":
            from octavo.checkpoints.gguf_header import read_header  # loads numpy

            return list(read_header(path).tensors)
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = msgspec.json.decode(file.read(min(size, _MAX_HEADER_BYTES)), type=dict[str, msgspec.Raw])
        return [name for name in header if name != "__metadata__"]
    except (ModelError, OSError, msgspec.MsgspecError):
        return []
