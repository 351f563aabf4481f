"""How sampling's kernels read a row of logits: in pieces of a fixed size, so that a row's result depends on no other.

A row that is edited is read from a copy of its own.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

PIECE = 4096
"""Tokens that one program takes."""
GROUP = 256
"""Tokens of which a piece tells the highest logit."""

LARGEST = tl.constexpr(3.4028234663852886e38)
"""The largest number of float32, which infinity counts as."""


class Rows(NamedTuple):
    """Logits as the kernels take them."""

    logits: torch.Tensor
    """`[num_rows, vocab_size]`, contiguous, of 16 or 32 bits, as the model gave them."""
    edited: torch.Tensor | None = None
    """`[num_edited, vocab_size]` float32; None where no row is edited, as is the next."""
    places: torch.Tensor | None = None
    """`[num_rows]` int32: each row's place in `edited`, -1 for none."""

    @property
    def vocab_size(self) -> int:
        """Tokens of a row."""
        return self.logits.shape[1]

    @property
    def num_pieces(self) -> int:
        """Pieces of a row."""
        return -(-self.vocab_size // PIECE)


@triton.jit
def load_raw(logits, row, tokens, vocab_size):
    """As the model gave them, in float32."""
    return tl.load(logits + row * vocab_size + tokens, mask=tokens < vocab_size, other=float("-inf")).to(tl.float32)


@triton.jit
def load_finite(logits, edited, places, row, tokens, vocab_size):
    """Edited logits of one row in float32: NaN is minus infinity, plus infinity the largest number."""
    if edited is None:
        numbers = load_raw(logits, row, tokens, vocab_size)
    else:
        place = tl.load(places + row).to(tl.int64)
        is_token = tokens < vocab_size
        numbers = tl.load(logits + row * vocab_size + tokens, mask=is_token & (place < 0), other=float("-inf"))
        changed = tl.load(edited + place * vocab_size + tokens, mask=is_token & (place >= 0), other=float("-inf"))
        numbers = tl.where(place >= 0, changed, numbers.to(tl.float32))
    return make_finite(numbers)


@triton.jit
def make_finite(numbers):
    """NaN becomes minus infinity, plus infinity the largest number."""
    return tl.minimum(tl.where(numbers != numbers, float("-inf"), numbers), LARGEST)


@triton.jit
def weights(numbers, highest, temperature):
    """Probabilities of one row, but for a factor: 1 at its highest logit, 0 at minus infinity."""
    scores = tl.div_rn(numbers - highest, temperature)
    # An approximate exponential of what is just below 0 may come out above 1.
    return tl.where(numbers == float("-inf"), 0.0, tl.minimum(tl.exp(scores), 1.0))


@triton.jit
def first_of_highest(values, tokens, num_values, NUM_VALUES: tl.constexpr):
    """The highest of a row's values, one a piece, and its token; of equals the lowest."""
    lanes = tl.arange(0, NUM_VALUES)
    is_value = lanes < num_values
    numbers = tl.load(values + lanes, mask=is_value, other=float("-inf"))
    highest = tl.max(numbers, 0)
    token = tl.min(tl.where(is_value & (numbers == highest), tl.load(tokens + lanes, mask=is_value), 2147483647), 0)
    return highest, token
