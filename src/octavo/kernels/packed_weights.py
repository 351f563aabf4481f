"""A model's packed weights, kept from one start to the next: mapped from a file, or packed and written to it."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from tqdm import tqdm

from octavo.kernels.operations import Weight

if TYPE_CHECKING:
    from octavo.kernels import _cpu
    from octavo.kernels.packed_file import Bytes

logger = logging.getLogger(__name__)

GIB = 2**30
MADE_AGAIN = "the weights are read and packed again"


class PackedWeights:
    """What a backend that packs weights takes from a folder, by the names of the model's parameters, and gives to it.

    The loader calls `open` and `name`, the backend `memory`, `add` and `save`, in this order. Nothing that goes wrong
    with the folder ends a start: it is a warning.

    Args:
        folder: made where it is not there.
        progress: show a bar on stderr while writing.
    """

    def __init__(self, folder: Path, *, progress: bool = False) -> None:
        self.folder = folder
        self._progress = progress
        self._path = folder
        self._key = ""
        self._found: dict[str, Bytes] = {}
        self._names: dict[int, str] = {}
        self._new: dict[str, _cpu.Weight] = {}

    def open(self, name: str, key: str) -> None:
        """Map the file that has the weights, if there is one.

        Args:
            name: of the file.
            key: differs with everything that the packed weights depend on.
        """
        from octavo.kernels.packed_file import DamagedFileError, read_packed_file

        self._path, self._key = self.folder / name, key
        try:
            self._found = read_packed_file(self._path, key) or {}
        except DamagedFileError as error:
            logger.warning("%s is damaged (%s): %s", self._path, error, MADE_AGAIN)
        except OSError as error:
            logger.warning("%s cannot be read (%s): %s", self._path, error, MADE_AGAIN)
        if self._found:
            logger.info("packed weights are mapped from %s (%.2f GiB)", self._path, self.mapped_bytes / GIB)

    def name(self, *named: Iterable[tuple[str, nn.Module | nn.Parameter]]) -> None:
        """Learn the names of a model's weights: of its modules and parameters."""
        self._names = {id(weight): name for some in named for name, weight in some}

    @property
    def mapped_bytes(self) -> int:
        """Of the weights found. The system counts them as free memory, as it could read them again."""
        return sum(len(blob) for blob in self._found.values())

    def has(self, parameter: str) -> bool:
        """Whether a parameter is, or is part of, a weight that was found: it need not be loaded."""
        return parameter in self._found or parameter.rpartition(".")[0] in self._found

    def memory(self, weight: Weight) -> "Bytes | None":
        """What a weight was packed as, `[bytes]` uint8; None where it was not found."""
        return self._found.get(self._names.get(id(weight), ""))

    def add(self, weight: Weight, packed: "_cpu.Weight") -> None:
        """Note what a weight has been packed as. One that is no parameter of the model is packed at each start."""
        if id(weight) in self._names:
            self._new[self._names[id(weight)]] = packed

    def save(self) -> None:
        """Write the weights, unless they were found."""
        new, self._new = self._new, {}
        if not new or self._found:
            return
        try:
            self._write(new)
        except OSError as error:
            logger.warning("packed weights are not kept in %s (--weight-cache): %s", self.folder, error)

    def _write(self, new: "dict[str, _cpu.Weight]") -> None:
        from octavo.kernels.packed_file import write_packed_file

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        total = sum(packed.num_bytes for packed in new.values())
        free = shutil.disk_usage(self.folder).free
        if total > free:
            raise OSError(f"they take {total / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free on its disk")
        blobs = {name: packed.packed for name, packed in new.items()}
        with tqdm(
            total=total, desc="Keeping packed weights", unit="B", unit_scale=True, disable=not self._progress
        ) as bar:
            is_kept = write_packed_file(self._path, self._key, blobs, bar.update)
        if is_kept:
            logger.info("packed weights are kept in %s (%.2f GiB)", self._path, total / GIB)
