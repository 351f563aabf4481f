"""The highest logit of each row: which token has it, whether it is a number, and how it is spread."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.layout import power_of_2
from octavo.kernels.triton.logits_pieces import GROUP, PIECE, Rows, first_of_highest, load_finite, load_raw, make_finite


class Maxima(NamedTuple):
    """What is known of rows of logits after one look at them."""

    token_ids: torch.Tensor
    """`[num_rows]` int64: the likeliest token, of equals the lowest; the fallback where every one is impossible."""
    broken: torch.Tensor
    """`[num_rows]` bool: whether the highest logit that the model gave is no finite number."""
    highest: torch.Tensor
    """`[num_rows]` float32: the highest edited logit; minus infinity where every token is impossible."""
    of_groups: torch.Tensor
    """`[num_rows, num_pieces * PIECE / GROUP]` float32: the highest of each group of tokens."""


def find_maxima(rows: Rows, fallback: torch.Tensor) -> Maxima:
    """The likeliest tokens, in two launches.

    Args:
        fallback: `[num_rows]` int64; 0 is taken for one past the vocabulary.
    """
    num_rows, num_pieces, device = len(rows.logits), rows.num_pieces, rows.logits.device
    of_groups = torch.empty((num_rows, num_pieces * (PIECE // GROUP)), dtype=torch.float32, device=device)
    of_pieces = torch.empty((num_rows, num_pieces), dtype=torch.float32, device=device)
    raw_of_pieces = torch.empty_like(of_pieces)
    tokens = torch.empty((num_rows, num_pieces), dtype=torch.int32, device=device)
    find_piece_maxima[(num_pieces, num_rows)](
        of_pieces, tokens, raw_of_pieces, of_groups, *rows, rows.vocab_size, PIECE=PIECE, GROUP=GROUP, num_warps=8
    )
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=device)
    broken = torch.empty(num_rows, dtype=torch.bool, device=device)
    highest = torch.empty(num_rows, dtype=torch.float32, device=device)
    merge_piece_maxima[(num_rows,)](
        token_ids,
        broken,
        highest,
        of_pieces,
        tokens,
        raw_of_pieces,
        fallback,
        rows.vocab_size,
        num_pieces,
        NUM_PIECES=power_of_2(num_pieces),
        num_warps=1,
    )
    return Maxima(token_ids, broken, highest, of_groups)


@triton.jit
def find_piece_maxima(
    of_pieces,
    tokens_of_pieces,
    raw_of_pieces,
    of_groups,
    logits,
    edited,
    places,
    vocab_size,
    PIECE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """One piece of one row. `raw_of_pieces` gets the highest that the model gave, infinity where there is a NaN. The
    grid is (pieces, rows)."""
    piece = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    place = row * tl.num_programs(0) + piece
    tokens = piece * PIECE + tl.arange(0, PIECE)
    raw = load_raw(logits, row, tokens, vocab_size)
    tl.store(raw_of_pieces + place, tl.max(tl.where(raw != raw, float("inf"), raw), 0))
    numbers = make_finite(raw) if edited is None else load_finite(logits, edited, places, row, tokens, vocab_size)
    groups: tl.constexpr = PIECE // GROUP
    tl.store(of_groups + place * groups + tl.arange(0, groups), tl.max(tl.reshape(numbers, (groups, GROUP)), 1))
    highest, index = tl.max(numbers, 0, return_indices=True)
    tl.store(of_pieces + place, highest)
    tl.store(tokens_of_pieces + place, piece * PIECE + index)


@triton.jit
def merge_piece_maxima(
    token_ids,
    broken,
    highest,
    of_pieces,
    tokens_of_pieces,
    raw_of_pieces,
    fallback,
    vocab_size,
    num_pieces,
    NUM_PIECES: tl.constexpr,
):
    """One row of `find_piece_maxima`'s. The grid is (rows,)."""
    row = tl.program_id(0)
    first = row.to(tl.int64) * num_pieces
    largest, token = first_of_highest(of_pieces + first, tokens_of_pieces + first, num_pieces, NUM_PIECES)
    instead = tl.load(fallback + row)
    instead = tl.where(instead < vocab_size, instead, 0)
    tl.store(token_ids + row, tl.where(largest == float("-inf"), instead, token.to(tl.int64)))
    tl.store(highest + row, largest)
    lanes = tl.arange(0, NUM_PIECES)
    raw = tl.max(tl.load(raw_of_pieces + first + lanes, mask=lanes < num_pieces, other=float("-inf")), 0)
    tl.store(broken + row, tl.abs(raw) == float("inf"))
