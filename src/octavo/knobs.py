"""What a knob is: a field of a config that is declared once, with its help and its bounds, and held to them."""

import dataclasses
import re
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from octavo.errors import ConfigError

Size = str | int
"""Bytes: `48MiB`, a bare number, or a share of what is free, `40%`."""

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*")
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """What is declared of a field of a config beside its type and its default."""

    help: str
    """Its flag's."""
    group: str
    """Of flags in the help."""
    metavar: str | None
    at_least: float | None
    """The lower bound of a number, or of a size in bytes."""
    at_most: int | None
    within: range | None
    """Both bounds of a number, where an error tells them together."""
    items: str | None
    """What the texts of a list are, in the words of its error; None where an error must not show them."""
    several: bool
    """A list's flag takes several texts at once, besides being given several times."""


def knob(
    default: Any,
    help: str,
    *,
    group: str,
    metavar: str | None = None,
    at_least: float | None = None,
    at_most: int | None = None,
    within: range | None = None,
    items: str | None = None,
    several: bool = False,
) -> Any:
    """One field of a config; its choices and type come from the annotation, and `check_knobs` holds it to them and to
    its bounds. The arguments are `Knob`'s."""
    declared = Knob(
        help=help,
        group=group,
        metavar=metavar,
        at_least=at_least,
        at_most=at_most,
        within=within,
        items=items,
        several=several,
    )
    return dataclasses.field(default=default, metadata={"knob": declared})


def knobs(config: type[Any]) -> dict[str, Knob]:
    """A config's knobs by the names of its fields."""
    return {field.name: field.metadata["knob"] for field in dataclasses.fields(config)}


def check_knobs(config: Any) -> None:
    """Hold each knob to its type, its choices and its bounds.

    Raises:
        ConfigError: one is not as it is declared; the message names its flag.
    """
    hints = get_type_hints(type(config))
    for name, declared in knobs(type(config)).items():
        value, hint = getattr(config, name), hints[name]
        if value is not None or NoneType not in get_args(hint):
            _check_knob(flag(name), value, hint, declared)


def _check_knob(name: str, value: Any, hint: Any, declared: Knob) -> None:
    kinds = {kind for kind in get_args(hint) or (hint,) if kind is not NoneType}
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{name} is {value!r}; it is one of {', '.join(get_args(hint))}")
    elif kinds == set(get_args(Size)):
        parse_size(value, 2**40, name, least=1 if declared.at_least is None else int(declared.at_least))
    elif get_origin(hint) is tuple:
        if not isinstance(value, tuple | list) or not all(isinstance(text, str) and text for text in value):
            must = f"be a list of {declared.items}, got {value!r}" if declared.items else "not be empty"
            raise ConfigError(f"{name} must {must}")
    elif kinds == {str}:
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be a text, got {value!r}")
    elif kinds != {bool}:
        _check_number(name, value, int if kinds == {int} else float, declared)


def _check_number(name: str, value: Any, kind: type[int] | type[float], declared: Knob) -> None:
    low, high, within = declared.at_least, declared.at_most, declared.within
    if within is not None:
        if value not in within:
            raise ConfigError(f"{name} must be {within[0]} to {within[-1]}, got {value!r}")
        return
    is_number = isinstance(value, int | kind) and not isinstance(value, bool)
    if kind is float and high is not None:
        if not is_number or not (low or 0) <= value <= high:
            raise ConfigError(f"{name} must be {low} to {high}, got {value!r}")
        return
    if not is_number or (low is not None and value < low) or not value < float("inf"):
        if kind is float:
            raise ConfigError(f"{name} must be a number of {str(declared.metavar).lower()} of at least {low}")
        raise ConfigError(f"{name} must be a whole number of at least {low}, got {value!r}")
    if high is not None and value > high:
        raise ConfigError(f"{name} must be at most {high}, got {value}")


def parse_size(text: Size, free_bytes: int, name: str, least: int = 1) -> int:
    """Bytes from a size (`48MiB`, `2GiB`, `500MB`, a bare number of bytes) or from a share of what is free (`40%`).

    Raises:
        ConfigError: it is neither, or less than `least` bytes, 1 or 0; the message calls it `name`.
    """
    if share := _SHARE.fullmatch(str(text)):
        percent = float(share[1])
        if not 0 < percent <= 100 and (percent, least) != (0, 0):
            raise ConfigError(f"{name} is {text!r}: a share must be above 0% and at most 100%")
        return int(free_bytes * percent / 100)
    size = _SIZE.fullmatch(str(text))
    if size is None or size[2].upper() not in _UNITS:
        raise ConfigError(
            f"{name} is {text!r}, which is not a size: write 48MiB, 2GiB, 500MB, a number of bytes, or a "
            f"share of free memory such as 40%"
        )
    num_bytes = float(size[1]) * _UNITS[size[2].upper()]
    if not size[2] and 0 < num_bytes < 1024:
        number = f"{num_bytes:g}"
        raise ConfigError(f"{name} is {text}, which would be bytes: write {number}GiB or {number}MiB, with the unit")
    if not least <= num_bytes < 2**63:
        raise ConfigError(f"{name} is {text!r}: it must be {'above zero' if least else 'zero or more'} and below 8 EiB")
    return int(num_bytes)


def flag(name: str) -> str:
    """A knob's command-line flag."""
    return "--" + name.replace("_", "-")
