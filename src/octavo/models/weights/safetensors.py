"""Reads weights from a folder of safetensors files, memory-mapped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from octavo.errors import ModelError

INDEX = "model.safetensors.index.json"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class SafetensorsTensors:
    """The tensors of one or more safetensors files; a `TensorSource`."""

    def __init__(self, folder: Path) -> None:
        """Open the folder's files.

        Raises:
            ModelError: there is none, one that the index names is missing, or one cannot be read or is truncated.
        """
        self._files: dict[str, tuple[Path, Any]] = {}
        for path in _files(folder):
            opened = _open(path)
            for name in opened.keys():  # noqa: SIM118 (safe_open is not a dict)
                if name in self._files:
                    raise ModelError(f"tensor {name!r} is in two files: {self._files[name][0]} and {path}")
                self._files[name] = (path, opened)

    def names(self) -> list[str]:
        """In the files' order."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        return tuple(self._slice(name).get_shape())

    def file(self, name: str) -> str:
        """The file that holds the tensor."""
        return str(self._files[name][0])

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, torch.Tensor]]:
        """`(first row, values)` over `rows`: one view of the mapped file, in the file's dtype.

        Raises:
            ModelError: the tensor is not of floating point: quantized in a way that config.json doesn't tell.
        """
        values: torch.Tensor = self._slice(name)[rows.start : rows.stop]
        if not values.is_floating_point():
            raise ModelError(f"tensor {name!r} in {self.file(name)} is {values.dtype}; quantized weights are not read")
        yield rows.start, values

    def dtype_name(self) -> str | None:
        """What the weights are stored as, in torch's words: that of the first matrix; None if there is none."""
        for name in self._files:
            if len(self.shape(name)) > 1:
                return str(self._slice(name)[0:0].dtype)
        return None

    def _slice(self, name: str) -> Any:
        return self._files[name][1].get_slice(name)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file, or is truncated or corrupt: {error}") from error


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    found = sorted(folder.glob("*.safetensors"))
    if folder / "model.safetensors" in found:
        return [folder / "model.safetensors"]
    if len(found) > 1:
        raise ModelError(f"{folder} has {len(found)} safetensors files but no {INDEX} to say which make the model")
    if not found:
        raise ModelError(
            f"{folder} has no safetensors files: no {INDEX}, no model.safetensors; "
            "weights in other formats are not read (--load-format dummy runs without any)"
        )
    return found


def _indexed_files(folder: Path) -> list[Path]:
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=_Index)
    except msgspec.MsgspecError as error:
        raise ModelError(f"{folder / INDEX} is not a usable index: {error}") from error
    names = sorted(set(index.weight_map.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} of the {len(names)} files in its index: {', '.join(missing)}")
    return [folder / name for name in names]
