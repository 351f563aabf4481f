"""What a config.json says of rotary positions: their base, how they are scaled, and how far they then reach."""

import sys
from dataclasses import dataclass
from typing import Any

from octavo.errors import ModelError

MAX_POSITIONS = 2**27
"""The longest sequence that a model may be made for, far over any."""
_KINDS_WITH_ORIGINAL = ("llama3", "yarn")
"""Kinds of scaling that start from the length before it, `original_max_position_embeddings`."""


@dataclass(frozen=True, slots=True)
class RopeFields:
    """The base of the frequencies, and the scaling in the form of `ModelConfig.rope_scaling`."""

    theta: float
    scaling: dict[str, Any] | None
    max_positions: int
    """The longest sequence that the scaled positions are made for, in tokens."""


def read_rope(raw: dict[str, Any], max_positions: int, source: str) -> RopeFields:
    """Read `rope_theta`, `rope_scaling` and `rope_parameters`: transformers 5 has all in the last, 4 has the first two
    and once wrote `type` for `rope_type`.

    Args:
        raw: the fields of config.json.
        max_positions: its `max_position_embeddings`.
        source: where it came from, for errors.

    Raises:
        ModelError: a field is not usable, or layers are scaled in several ways.
    """
    scaling = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = scaling.pop("rope_theta", raw.get("rope_theta") or 10000.0)
    scaling.pop("partial_rotary_factor", None)
    if not isinstance(theta, int | float) or not 0 < theta <= sys.float_info.max:
        raise ModelError(f"{source}: rope_theta must be a number above 0, got {theta!r:.80}")
    kind = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    if not isinstance(kind, str) or any(isinstance(value, dict) for value in scaling.values()):
        raise ModelError(f"{source}: rope_parameters must be of one kind for all layers, got {scaling}")
    if kind == "default":
        return RopeFields(float(theta), None, max_positions)
    if kind in _KINDS_WITH_ORIGINAL:
        given = (fields.get("original_max_position_embeddings") for fields in (raw, scaling))
        original = next((length for length in given if length is not None), max_positions)
        scaling["original_max_position_embeddings"] = original
    if kind == "yarn":
        max_positions = _read_yarn_factor(scaling, max_positions, source)
    return RopeFields(float(theta), {"rope_type": kind, **scaling}, max_positions)


def _read_yarn_factor(scaling: dict[str, Any], max_positions: int, source: str) -> int:
    """Check YaRN's `factor` and return the length that it reaches: the factor times the original one, whichever of the
    two the config has as its own. Without a factor, that is the config's own, and the factor follows."""
    original, factor = scaling["original_max_position_embeddings"], scaling.get("factor")
    try:
        stretch = max_positions / original if factor is None else float(factor)
        length = int(stretch * original)
        is_usable = original > 0 and 1 <= length <= MAX_POSITIONS
    except (TypeError, ValueError, ArithmeticError):
        is_usable = False
    if not is_usable:
        raise ModelError(
            f"{source}: YaRN's factor ({factor!r:.80}) times original_max_position_embeddings ({original!r:.80}) must "
            f"be a length of 1 to {MAX_POSITIONS} tokens"
        )
    scaling["factor"] = stretch
    return length
