"""Rotary position embedding (Su et al., RoFormer, 2021) and the scalings of its frequencies that LLaMA models use."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from octavo.errors import ModelError
from octavo.layers.build import ModelBuild

Scaling = dict[str, Any]

POSITIONS_AT_ONCE = 4096
"""Computed at a time: what is held beside the table itself stays small."""


class RotaryEmbedding(nn.Module):
    """The table by which attention rotates queries and keys, made once for all layers.

    Angles and table are float32, as in Hugging Face's models, or float64 in a float64 model; rounding angles to a
    16-bit dtype would merge neighbouring positions.
    """

    cos_sin: torch.Tensor
    """`[max_positions, head_dim]`: cosines, then sines. Not in checkpoints."""

    def __init__(
        self, head_dim: int, max_positions: int, theta: float, scaling: Scaling | None, build: ModelBuild
    ) -> None:
        """The table covers the positions below `max_positions`; which ones it covers changes none of its values.

        `scaling` is None, or has `rope_type` and what that kind needs, as in Hugging Face's config.json.

        Raises:
            ModelError: the kind of scaling is unknown, or lacks a field.
        """
        super().__init__()
        self.max_positions = max_positions
        self.frequencies = rotary_frequencies(head_dim, theta, scaling, torch.promote_types(build.dtype, torch.float32))
        self.fill_table(build.device)

    def fill_table(self, device: torch.device) -> None:
        """Compute the table on `device`; on the meta device it has a shape only."""
        dtype = self.frequencies.dtype
        table = torch.empty(self.max_positions, 2 * len(self.frequencies), dtype=dtype, device=device)
        if device.type != "meta":  # its arithmetic would import sympy: 0.7 s and 70 MB
            positions = torch.arange(self.max_positions, dtype=dtype)
            for start in range(0, self.max_positions, POSITIONS_AT_ONCE):
                part = slice(start, start + POSITIONS_AT_ONCE)
                angles = torch.outer(positions[part], self.frequencies)
                table[part] = torch.cat((angles.cos(), angles.sin()), dim=-1)
        self.register_buffer("cos_sin", table, persistent=False)


def rotary_frequencies(head_dim: int, theta: float, scaling: Scaling | None, dtype: torch.dtype) -> torch.Tensor:
    """The angle per position of each pair of dimensions, `[head_dim / 2]`, in radians.

    Raises:
        ModelError: the kind of scaling is unknown, or lacks a field.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=dtype) / head_dim)
    if scaling is None:
        return frequencies
    kind = scaling.get("rope_type")
    if kind not in _SCALINGS:
        raise ModelError(f"unknown kind of rope scaling {kind!r}; known ones: default, {', '.join(_SCALINGS)}")
    try:
        return _SCALINGS[kind](frequencies, scaling)
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ModelError(f"the model's rope scaling of kind {kind!r} is not usable: {error!r} in {scaling}") from error


def _linear(frequencies: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """Position interpolation (Chen et al., 2023): positions are divided by `factor`."""
    return frequencies / float(scaling["factor"])


def _llama3(frequencies: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """LLaMA 3.1's: long wavelengths are stretched by `factor`, short ones left alone, those between blended."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    unscaled = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - unscaled) * frequencies / float(scaling["factor"]) + unscaled * frequencies


def _frequency_factors(frequencies: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """A GGUF's way to store llama3 scaling: one divisor a frequency, the tensor `rope_freqs.weight`."""
    return frequencies / torch.tensor(scaling["factors"], dtype=frequencies.dtype)


_SCALINGS: dict[str, Callable[[torch.Tensor, Scaling], torch.Tensor]] = {
    "linear": _linear,
    "llama3": _llama3,
    "frequency_factors": _frequency_factors,
}
