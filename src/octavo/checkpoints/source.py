"""What the loader reads a checkpoint's tensors through."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch

from octavo.errors import ModelError
from octavo.kernels.grouped import GroupedForm, GroupedRows

Rows = torch.Tensor | GroupedRows
"""Values of rows: `[n]`, `[n, columns]`, or in groups of columns."""


def as_numbers(rows: Rows) -> torch.Tensor:
    """Rows without groups."""
    return rows.dequantized() if isinstance(rows, GroupedRows) else rows


class TensorSource(Protocol):
    """A checkpoint's tensors by Hugging Face name, read slice by slice."""

    def names(self) -> list[str]:
        """All tensors, in the order in which they are best read."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        ...

    def file(self, name: str) -> str:
        """Where the tensor is, for errors."""
        ...

    def form(self, name: str) -> GroupedForm | None:
        """How the tensor is written, where it is in groups; then its slices are."""
        ...

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, Rows]]:
        """`(first row, values)` covering `rows` once, all columns."""
        ...


OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""Ends of the names that BERT's first checkpoints have from TensorFlow, and what they are called since."""


class HuggingFaceTensors:
    """A Hugging Face checkpoint's tensors as an architecture's placements name and shape them; a `TensorSource`.

    Args:
        stored: gives a tensor's rows in one piece, so that its columns can be taken from a mapped file.
        base_prefix: what all names of the model begin with but its head's, and no name of a checkpoint that was saved
            from the model without a head: `model.`.
        transposed: ends of the names of matrices that are stored as `[inputs, outputs]`.
    """

    def __init__(self, stored: TensorSource, base_prefix: str, transposed: tuple[str, ...] = ()) -> None:
        self._stored = stored
        self._transposed = transposed
        names = stored.names()
        lacks_prefix = not any(name.startswith(base_prefix) for name in names)
        self._stored_names = {
            _since_called(base_prefix + name if lacks_prefix and not name.startswith("lm_head.") else name): name
            for name in names
        }

    def names(self) -> list[str]:
        """In the checkpoint's order."""
        return list(self._stored_names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's, turned over where it is."""
        shape = self._stored.shape(self._stored_names[name])
        return shape[::-1] if name.endswith(self._transposed) else shape

    def file(self, name: str) -> str:
        """Where the tensor is, for errors."""
        return self._stored.file(self._stored_names[name])

    def form(self, name: str) -> GroupedForm | None:
        """How it is stored."""
        return self._stored.form(self._stored_names[name])

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, Rows]]:
        """`(first row, values)` over `rows`, all columns.

        Raises:
            ModelError: it is to be turned over, and in groups.
        """
        stored_name = self._stored_names[name]
        if not name.endswith(self._transposed):
            yield from self._stored.slices(stored_name, rows)
            return
        ((_, stored),) = self._stored.slices(stored_name, range(self._stored.shape(stored_name)[0]))
        if isinstance(stored, GroupedRows):
            raise ModelError(f"tensor {name!r} in {self.file(name)} is packed, which those that are turned over aren't")
        yield rows.start, stored.T[rows.start : rows.stop]


class JoinedTensors:
    """Several sources as one; a `TensorSource`.

    Args:
        sources: by what stands before the names of each one's tensors.
    """

    def __init__(self, sources: Mapping[str, TensorSource]) -> None:
        self._places = {prefix + name: (source, name) for prefix, source in sources.items() for name in source.names()}

    def names(self) -> list[str]:
        """Source by source."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        source, own = self._places[name]
        return source.shape(own)

    def file(self, name: str) -> str:
        """Where the tensor is, for errors."""
        source, own = self._places[name]
        return source.file(own)

    def form(self, name: str) -> GroupedForm | None:
        """How it is stored."""
        source, own = self._places[name]
        return source.form(own)

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, Rows]]:
        """`(first row, values)` over `rows`, all columns."""
        source, own = self._places[name]
        return source.slices(own, rows)


def _since_called(name: str) -> str:
    old = next((old for old in OLD_NAMES if name.endswith(old)), None)
    return name if old is None else name.removesuffix(old) + OLD_NAMES[old]
