"""Giving the matrices of a model the forms in which its checkpoint has them."""

from collections.abc import Iterable, Mapping
from itertools import groupby

from torch import nn

from octavo.errors import ConfigError
from octavo.kernels.grouped import GroupedForm, GroupedWeight
from octavo.layers.placement import Placement, Placements
from octavo.layers.weight_parts import WeightParts

Placed = tuple[str, Placement]
"""A tensor's name in the checkpoint, and where it goes."""


def matrices(modules: Iterable[nn.Module], placements: Placements) -> list[tuple[nn.Module, list[Placed]]]:
    """Of a model's layers those that have a matrix, their `weight`, with the tensors that fill it in the order of its
    rows."""
    placed: dict[int, list[Placed]] = {}
    for name, parts in placements.items():
        for placement in parts:
            if placement.is_matrix:
                placed.setdefault(id(placement.weight), []).append((name, placement))
    found: list[tuple[nn.Module, list[Placed]]] = []
    for module in modules:
        weight = {**dict(module.named_parameters(recurse=False)), **dict(module.named_children())}.get("weight")
        if own := placed.get(id(weight)):
            found.append((module, sorted(own, key=lambda each: each[1].first_row)))
    return found


def usable_forms(
    modules: Iterable[nn.Module], placements: Placements, forms: Mapping[str, GroupedForm]
) -> tuple[dict[str, GroupedForm], list[str]]:
    """Those of the forms that the model's layers can keep, and the names of the tensors whose they cannot: a projection
    is in groups as a whole or not at all, and that of experts in groups of one form.

    Raises:
        ConfigError: a rank's inputs of a matrix do not begin and end where groups do.
    """
    unlike: list[str] = []
    for _, placed in matrices(modules, placements):
        for name, placement in placed:
            if name in forms:
                _check_columns(name, placement, forms[name])
        default = _default_form(placed)
        own = {forms.get(name, default) for name, _ in placed}
        if len(own) > 1 and (None in own or placed[0][1].needs_one_form):
            unlike += [name for name, _ in placed if name in forms]
    return {name: form for name, form in forms.items() if name not in unlike}, unlike


def take_forms(modules: Iterable[nn.Module], placements: Placements, forms: Mapping[str, GroupedForm]) -> None:
    """Give matrices of a model's layers, still unfilled, the forms of the tensors that fill them: those of
    `usable_forms`. A weight whose tensors are not all of one form becomes several."""
    for module, placed in matrices(modules, placements):
        weight, default = placed[0][1].weight, _default_form(placed)
        device = next(placed[0][1].parameters()).device
        runs = [
            (form, sum(len(placement.rows) for _, placement in run))
            for form, run in groupby(placed, key=lambda each: forms.get(each[0], default))
        ]
        parts = [
            GroupedWeight(num_rows, weight.shape[1], form, device, weight.dtype)
            for form, num_rows in runs
            if form is not None
        ]
        if parts and [form for form, _ in runs] != [default]:
            del module.weight  # a parameter's name takes no module
            module.weight = parts[0] if len(parts) == 1 else WeightParts(parts)


def _default_form(placed: list[Placed]) -> GroupedForm | None:
    """What a layer's weight is without more being said of it."""
    weight = placed[0][1].weight
    return weight.form if isinstance(weight, GroupedWeight) else None


def _check_columns(name: str, placement: Placement, form: GroupedForm) -> None:
    columns = placement.columns
    if columns is None:
        return
    if columns.start % form.group or (columns.stop % form.group and columns.stop != placement.shape[1]):
        raise ConfigError(
            f"the inputs of {name!r} come in groups of {form.group}, and a rank would hold {columns.start} to "
            f"{columns.stop} of its {placement.shape[1]}: change --tensor-parallel-size, or widen the weights with "
            "--quantization none"
        )
