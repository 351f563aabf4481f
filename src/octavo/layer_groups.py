"""Which layers keep their KV alike, and which tokens of a sequence they still need: plain data that models state, the
memory manages and kernels follow."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from octavo.errors import ModelError

MAX_GROUPS = 8
"""A sequence has a block table a group, so their number bounds what a step costs."""


class Full(msgspec.Struct, frozen=True, tag=True):
    """Every query sees all tokens up to its own or, where it is not causal, all tokens of its row."""

    is_causal: bool = True

    @property
    def most_seen(self) -> int | None:
        """The most tokens up to its own that a query sees; None where that grows with the sequence."""
        return None

    def first_seen(self, position: int) -> int:
        """The first position that a query at `position` sees, from 0; it never falls as `position` rises."""
        return 0

    def last_seen(self, position: int, num_tokens: int) -> int:
        """The last position that a query at `position` sees in a row of `num_tokens`; it never falls either."""
        return position if self.is_causal else num_tokens - 1

    def __str__(self) -> str:
        return "full" if self.is_causal else "full, both ways"


class Window(msgspec.Struct, frozen=True, tag=True):
    """A query sees itself and the `size - 1` tokens before it (Beltagy et al., Longformer, 2020); where it is not
    causal also as many after it."""

    size: int
    is_causal: bool = True

    @property
    def most_seen(self) -> int | None:
        """As for `Full`."""
        return self.size

    def first_seen(self, position: int) -> int:
        """As for `Full`."""
        return max(0, position - self.size + 1)

    def last_seen(self, position: int, num_tokens: int) -> int:
        """As for `Full`."""
        return position if self.is_causal else min(num_tokens, position + self.size) - 1

    def __str__(self) -> str:
        return f"window({self.size})" if self.is_causal else f"window({self.size}), both ways"


FULL = Full()

LayerKind = Full | Window
"""What of a sequence's KV a layer reads. Layers of equal kinds can share block tables. All that memory and scheduling
do about windows follows from a kind's `most_seen` and `first_seen`. Where a kind is not causal, a token's state depends
on those after it: a row is computed whole in one step, and no other row can begin with its blocks."""


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers of one kind. A block of the group holds a block's tokens for these layers."""

    kind: LayerKind
    layers: tuple[int, ...]
    """In the order in which they lie in a record."""


@dataclass(frozen=True, slots=True)
class LayerGroups:
    """All of a model's layers.

    Every group has `layers_a_group` places in a record, so that blocks of one size serve all; a group with fewer layers
    leaves the last places empty.
    """

    groups: tuple[LayerGroup, ...]
    layers_a_group: int

    @property
    def num_layers(self) -> int:
        return sum(len(group.layers) for group in self.groups)

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """Each group's."""
        return tuple(group.kind for group in self.groups)

    @property
    def is_causal(self) -> bool:
        """Whether no token sees any after it, in all layers."""
        return all(kind.is_causal for kind in self.kinds)

    def place(self, layer: int) -> tuple[int, int]:
        """Where a layer's KV lies: (its group, its place in the group's records)."""
        for index, group in enumerate(self.groups):
            if layer in group.layers:
                return index, group.layers.index(layer)
        raise ModelError(f"the model has no layer {layer}: its KV layout has {self.num_layers}")


def one_group(num_layers: int, kind: LayerKind | None = None) -> LayerGroups:
    """The groups of a model whose layers are all alike; full ones by default."""
    return LayerGroups((LayerGroup(kind or Full(), tuple(range(num_layers))),), num_layers)


def group_layers(kinds: Sequence[LayerKind]) -> LayerGroups:
    """Divide a model's layers into groups of equal kind and equal size.

    Of the sizes that make no more than `MAX_GROUPS` groups (or one a kind, where there are more kinds) the one that
    leaves the fewest places empty is taken, and of equals the largest: fewer tables. Groups that need every token come
    first.

    Args:
        kinds: of each layer, from the first.
    """
    layers_by_kind: dict[LayerKind, list[int]] = {}
    for layer, kind in enumerate(kinds):
        layers_by_kind.setdefault(kind, []).append(layer)
    counts = [len(layers) for layers in layers_by_kind.values()]
    most_groups = max(MAX_GROUPS, len(counts))

    def num_groups(size: int) -> int:
        return sum(-(-count // size) for count in counts)

    sizes = [size for size in range(1, len(kinds) + 1) if num_groups(size) <= most_groups]
    size = min(sizes, key=lambda size: (num_groups(size) * size, -size))
    groups = [
        LayerGroup(kind, tuple(layers[first : first + size]))
        for kind, layers in layers_by_kind.items()
        for first in range(0, len(layers), size)
    ]
    return LayerGroups(tuple(sorted(groups, key=lambda group: group.kind.most_seen is not None)), size)
