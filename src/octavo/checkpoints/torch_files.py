"""Reads weights from torch's own files (pytorch_model.bin), memory-mapped and without running code in them."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch

from octavo.errors import ModelError


class TorchTensors:
    """The tensors of one or more files written by `torch.save`; a `TensorSource`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files.

        Raises:
            ModelError: one cannot be read, is truncated, or holds more than tensors by name.
        """
        self._tensors: dict[str, tuple[Path, torch.Tensor]] = {}
        for path in paths:
            for name, tensor in _open(path).items():
                if name in self._tensors:
                    raise ModelError(f"tensor {name!r} is in two files: {self._tensors[name][0]} and {path}")
                self._tensors[name] = (path, tensor)

    def names(self) -> list[str]:
        """In the files' order."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        return tuple(self._tensors[name][1].shape)

    def file(self, name: str) -> str:
        """The file that holds the tensor."""
        return str(self._tensors[name][0])

    def form(self, name: str) -> None:
        """In groups is none."""

    def raw(self, name: str) -> torch.Tensor:
        """The whole tensor, of whatever dtype, as a view of the file."""
        tensor: torch.Tensor = self._tensors[name][1]
        return tensor

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, torch.Tensor]]:
        """`(first row, values)` over `rows`: one view of the mapped file, in the file's dtype.

        Raises:
            ModelError: the tensor is not of floating point: quantized in a way that config.json doesn't tell.
        """
        values = self._tensors[name][1][rows.start : rows.stop]
        if not values.is_floating_point():
            raise ModelError(f"tensor {name!r} in {self.file(name)} is {values.dtype}; quantized weights are not read")
        yield rows.start, values

    def dtype_name(self) -> str | None:
        """What the weights are stored as, in torch's words: that of the first matrix; None if there is none."""
        return next((str(tensor.dtype) for _, tensor in self._tensors.values() if tensor.dim() > 1), None)


def _open(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name, backed by the file; files older than torch 1.6, which cannot be mapped, are read whole."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} holds more than tensors, or is corrupt; it is not run as code: {reason}") from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is not a readable file of torch's, or is truncated or corrupt: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold tensors by name, not {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{path} must hold tensors by name, but {name!r:.80} is {type(tensor).__name__}")
    return content
