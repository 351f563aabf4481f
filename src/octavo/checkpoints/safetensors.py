"""Reads weights from a folder of safetensors files, memory-mapped."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from octavo.errors import ModelError


class SafetensorsTensors:
    """The tensors of one or more safetensors files; a `TensorSource`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files.

        Raises:
            ModelError: one cannot be read or is truncated, or two hold the same tensor.
        """
        self._files: dict[str, tuple[Path, Any]] = {}
        for path in paths:
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

    def form(self, name: str) -> None:
        """In groups is none."""

    def raw(self, name: str) -> torch.Tensor:
        """The whole tensor, of whatever dtype, as a view of the file."""
        tensor: torch.Tensor = self._slice(name)[:]
        return tensor

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
            if len(self.shape(name)) > 1 and (first := self._slice(name)[0:0]).is_floating_point():
                return str(first.dtype)
        return None

    def _slice(self, name: str) -> Any:
        return self._files[name][1].get_slice(name)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file, or is truncated or corrupt: {error}") from error
