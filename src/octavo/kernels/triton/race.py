"""A draw from each row by an exponential race, as `sampling/drawing.py` draws: the same noise for the same keys."""

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.layout import power_of_2
from octavo.kernels.triton.logits_pieces import PIECE, Rows, first_of_highest, load_finite, weights


def race(
    token_ids: torch.Tensor,
    rows: Rows,
    drawn: torch.Tensor,
    highest: torch.Tensor,
    temperatures: torch.Tensor,
    floors: torch.Tensor,
    keys: torch.Tensor,
) -> None:
    """Draw for some rows, in two launches. Those where every token is impossible keep what they have.

    Args:
        token_ids: `[num_rows]` int64, written to.
        drawn: `[n]` int32, the rows that are drawn.
        highest, temperatures, floors: `[num_rows]` float32; a token takes part from the weight `floors[row]` on, which
            is 1 at the highest logit.
        keys: `[num_rows, 2]` int32.
    """
    num_pieces = rows.num_pieces
    chances = torch.empty((len(drawn), num_pieces), dtype=torch.float32, device=token_ids.device)
    winners = torch.empty((len(drawn), num_pieces), dtype=torch.int32, device=token_ids.device)
    race_pieces[(num_pieces, len(drawn))](
        chances,
        winners,
        *rows,
        drawn,
        highest,
        temperatures,
        floors,
        keys,
        rows.vocab_size,
        PIECE=PIECE,
        num_warps=8,
    )
    settle_races[(len(drawn),)](
        token_ids, chances, winners, drawn, num_pieces, NUM_PIECES=power_of_2(num_pieces), num_warps=1
    )


@triton.jit
def race_pieces(
    chances,
    winners,
    logits,
    edited,
    places,
    drawn,
    highest,
    temperatures,
    floors,
    keys,
    vocab_size,
    PIECE: tl.constexpr,
):
    """One piece of one row. The grid is (pieces, drawn rows)."""
    piece = tl.program_id(0)
    index = tl.program_id(1)
    row = tl.load(drawn + index).to(tl.int64)
    tokens = piece * PIECE + tl.arange(0, PIECE)
    numbers = load_finite(logits, edited, places, row, tokens, vocab_size)
    own = weights(numbers, tl.load(highest + row), tl.load(temperatures + row))
    own = tl.where(own >= tl.load(floors + row), own, 0.0)
    place = index.to(tl.int64) * tl.num_programs(0) + piece
    if tl.max(own, 0) > 0:
        noise = exponential(tokens, tl.load(keys + row * 2), tl.load(keys + row * 2 + 1))
        chance, winner = tl.max(own / noise, 0, return_indices=True)
        tl.store(chances + place, chance)
        tl.store(winners + place, piece * PIECE + winner)
    else:
        tl.store(chances + place, 0.0)
        tl.store(winners + place, 0)


@triton.jit
def settle_races(token_ids, chances, winners, drawn, num_pieces, NUM_PIECES: tl.constexpr):
    """One drawn row of `race_pieces`'. The grid is (drawn rows,)."""
    index = tl.program_id(0)
    first = index.to(tl.int64) * num_pieces
    chance, winner = first_of_highest(chances + first, winners + first, num_pieces, NUM_PIECES)
    if chance > 0:
        tl.store(token_ids + tl.load(drawn + index), winner.to(tl.int64))


@triton.jit
def exponential(tokens, factor, offset):
    """As `sampling.noise.exponential` of `hash_tokens(tokens)`, with a row's key of two words."""
    hashed = _mix(tokens.to(tl.uint32))
    words = _mix(hashed * (factor.to(tl.uint32, bitcast=True) | 1) + offset.to(tl.uint32, bitcast=True))
    uniforms = words.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    uniforms = tl.minimum(uniforms, 0.999999940395355)
    # The logarithm of the rounded 1 - u, with the rounding taken out again: log1p, which Triton has not everywhere.
    rest = 1.0 - uniforms
    return tl.where(rest == 1.0, uniforms, -tl.log(rest) * tl.div_rn(uniforms, 1.0 - rest))


@triton.jit
def _mix(words):
    """Wellons's `lowbias32`, as in `sampling.noise`."""
    words = (words ^ (words >> 16)) * 0x7FEB352D
    words = (words ^ (words >> 15)) * 0x846CA68B
    return words ^ (words >> 16)
