"""Rotary position embedding (Su et al., RoFormer, 2021) and the scalings of its frequencies that models use."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    """`[max_positions, rotary_dim]`: cosines, then sines. Not in checkpoints."""

    def __init__(
        self, rotary_dim: int, max_positions: int, theta: float, scaling: Scaling | None, build: ModelBuild
    ) -> None:
        """The table of a rotation of each head's first `rotary_dim` dimensions at the positions below `max_positions`.

        Which positions it covers changes none of its values, but with longrope: there it chooses between two sets.
        `scaling` is None, or has `rope_type` and what that kind needs, as in Hugging Face's config.json.

        Raises:
            ModelError: the kind of scaling is unknown, or lacks a field.
        """
        super().__init__()
        self.max_positions = max_positions
        dtype = torch.promote_types(build.dtype, torch.float32)
        self.frequencies = rotary_frequencies(rotary_dim, theta, scaling, dtype, max_positions)
        self.amplitude = rotary_amplitude(scaling)
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
                table[part] = torch.cat((angles.cos(), angles.sin()), dim=-1) * self.amplitude
        self.register_buffer("cos_sin", table, persistent=False)


def rotary_frequencies(
    rotary_dim: int, theta: float, scaling: Scaling | None, dtype: torch.dtype, max_positions: int
) -> torch.Tensor:
    """The angle per position of each pair of dimensions, `[rotary_dim / 2]`, in radians.

    Raises:
        ModelError: the kind of scaling is unknown, or lacks a field.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, rotary_dim, 2, dtype=dtype) / rotary_dim)
    if scaling is None:
        return frequencies
    kind = scaling.get("rope_type")
    if kind not in _SCALINGS:
        raise ModelError(f"unknown kind of rope scaling {kind!r}; known ones: default, {', '.join(_SCALINGS)}")
    with _errors_named(scaling):
        return _SCALINGS[kind](frequencies, {"rope_theta": theta, **scaling}, max_positions)


def rotary_amplitude(scaling: Scaling | None) -> float:
    """What cosines and sines are multiplied by: 1, but for longrope and YaRN, where it grows with the stretch.

    Raises:
        ModelError: a field is missing or not usable.
    """
    kind = None if scaling is None else scaling.get("rope_type")
    if scaling is None or kind not in _AMPLITUDES:
        return 1.0
    with _errors_named(scaling):
        if scaling.get("attention_factor") is not None:
            return float(scaling["attention_factor"])
        return _AMPLITUDES[kind](scaling)


@contextmanager
def _errors_named(scaling: Scaling) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        shown = f"{error!r} in {scaling!s:.200}"
        raise ModelError(f"the model's rope scaling of kind {scaling['rope_type']!r} is not usable: {shown}") from error


def _linear(frequencies: torch.Tensor, scaling: Scaling, _: int) -> torch.Tensor:
    """Position interpolation (Chen et al., 2023): positions are divided by `factor`."""
    return frequencies / float(scaling["factor"])


def _llama3(frequencies: torch.Tensor, scaling: Scaling, _: int) -> torch.Tensor:
    """LLaMA 3.1's: long wavelengths are stretched by `factor`, short ones left alone, those between blended."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    unscaled = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - unscaled) * frequencies / float(scaling["factor"]) + unscaled * frequencies


def _frequency_factors(frequencies: torch.Tensor, scaling: Scaling, _: int) -> torch.Tensor:
    """A GGUF's way to store llama3 scaling: one divisor a frequency, the tensor `rope_freqs.weight`."""
    return _divided(frequencies, scaling["factors"])


def _longrope(frequencies: torch.Tensor, scaling: Scaling, max_positions: int) -> torch.Tensor:
    """LongRoPE (Ding et al., 2024): a divisor a frequency, from one of two sets for short and for long sequences.

    transformers changes over when a sequence outgrows the original length, with the states of its first tokens cached
    as they are. Here all sequences have the set that the longest one needs, so that states can be shared.
    """
    is_long = max_positions > int(scaling["original_max_position_embeddings"])
    return _divided(frequencies, scaling["long_factor" if is_long else "short_factor"])


def _longrope_amplitude(scaling: Scaling) -> float:
    original = float(scaling["original_max_position_embeddings"])
    factor = float(scaling.get("factor") or scaling["max_position_embeddings"] / original)
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def _yarn(frequencies: torch.Tensor, scaling: Scaling, _: int) -> torch.Tensor:
    """YaRN (Peng et al., 2023): pairs of dimensions that turn `beta_fast` times or more within the original length are
    left alone, those that turn less than `beta_slow` times are divided by `factor`, those between blended."""
    if float(scaling.get("extrapolation_factor") or 1) != 1:
        raise ValueError("an extrapolation_factor other than 1 is not computed")
    rotary_dim, original = 2 * len(frequencies), float(scaling["original_max_position_embeddings"])

    def pair_that_turns(times: float) -> float:
        return rotary_dim * math.log(original / (2 * math.pi * times)) / (2 * math.log(float(scaling["rope_theta"])))

    first = pair_that_turns(float(scaling.get("beta_fast") or 32))
    last = pair_that_turns(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    width = last - first or 0.001
    stretched = ((torch.arange(len(frequencies), dtype=frequencies.dtype) - first) / width).clamp(0, 1)
    return frequencies / float(scaling["factor"]) * stretched + frequencies * (1 - stretched)


def _yarn_amplitude(scaling: Scaling) -> float:
    """Makes up for the flatter attention over longer contexts (section 3.4). `mscale` and `mscale_all_dim` are
    DeepSeek's, `attn_factor` is a further factor."""
    factor = float(scaling["factor"])

    def growth(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, mscale_all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    amplitude = growth(float(mscale)) / growth(float(mscale_all_dim)) if mscale and mscale_all_dim else growth(1.0)
    return amplitude * float(scaling.get("attn_factor") or 1)


def _dynamic(frequencies: torch.Tensor, scaling: Scaling, _: int) -> torch.Tensor:
    """NTK-aware scaling that grows with a sequence: none up to the length that the model was trained for, which is as
    far as sequences go here (`resolve_max_model_len`). Cached keys could not follow it further."""
    if scaling.get("alpha") is not None:
        raise ValueError("alpha, which scales sequences of every length, is not computed")
    return frequencies


def _divided(frequencies: torch.Tensor, divisors: Sequence[float]) -> torch.Tensor:
    return frequencies / torch.tensor(divisors, dtype=frequencies.dtype)


_SCALINGS: dict[str, Callable[[torch.Tensor, Scaling, int], torch.Tensor]] = {
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "yarn": _yarn,
    "dynamic": _dynamic,
    "frequency_factors": _frequency_factors,
}
_AMPLITUDES: dict[str, Callable[[Scaling], float]] = {"longrope": _longrope_amplitude, "yarn": _yarn_amplitude}
