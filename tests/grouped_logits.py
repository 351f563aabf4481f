"""How models whose weights are in groups of inputs are compared with others of the same numbers."""

import random
from typing import Any

import torch

from octavo.kernels.grouped import GroupedWeight
from octavo.models.registry import CausalLM

TOLERANCE = 0.02
"""Of the logits' spread. What is left is the rounding of activations to 8 bits, 0.4 % a product; a wrong scale anywhere
is tens of percents."""


def tokens(count: int, seed: int) -> list[int]:
    """Random ones."""
    generator = random.Random(seed)
    return [generator.randrange(97) for _ in range(count)]


def mean_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the expected logits' spread."""
    return float((actual.float() - expected).abs().mean() / expected.std())


def forms(model: CausalLM) -> dict[str, int]:
    """The bits of the weights that are in groups, by their names."""
    modules: Any = model
    found = modules.named_modules()
    return {name: module.form.bits for name, module in found if isinstance(module, GroupedWeight)}
