"""Top-k and top-p as thresholds, without a sort.

Three steps, a launch each. A bound that lies safely below the threshold follows from the highest logits of groups of
tokens. The weights above it are gathered. A search over the bits of these finds the threshold itself. Masses are
added up as integers, so that neither their order nor the batch makes a difference.
"""

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.layout import power_of_2
from octavo.kernels.triton.logits_pieces import PIECE, Rows, load_finite, weights
from octavo.kernels.triton.maxima import Maxima

BRANCHES = 16
"""Parts into which a round of the search cuts what is left."""
WIDTH = 1024
"""Candidates that are compared with that many floors at a time."""

SLACK = tl.constexpr(0.5)
"""By which a bound is lowered, so that rounding does not matter."""
MASS_OF_ONE = tl.constexpr(8796093022208.0)
"""A weight of 1 as an integer, 2^43: a vocabulary of a million tokens leaves no int64."""
BITS_OF_ONE = tl.constexpr(0x3F800000)
"""Of the float32 number 1, as an integer. Numbers from 0 on rise as their bits do."""


def find_floors(
    floors: torch.Tensor,
    rows: Rows,
    cut: torch.Tensor,
    maxima: Maxima,
    temperatures: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> None:
    """Raise floors to the least weight that top-k and top-p keep; equals are kept together (`sampling/truncation.py`).

    Args:
        floors: `[num_rows]` float32, written to.
        cut: `[n]` int32, the rows where top-k or top-p cuts anything.
        temperatures: `[num_rows]` float32.
        top_k: `[num_rows]` int32, 0 where it keeps all.
        top_p: `[num_rows]` float64 in (0, 1].
    """
    num_groups, num_cut, device = maxima.of_groups.shape[1], len(cut), floors.device
    bounds = torch.empty(num_cut, dtype=torch.float32, device=device)
    shared = (cut, maxima.highest, temperatures)
    bound_floors[(num_cut,)](
        bounds,
        maxima.of_groups,
        *shared,
        top_k,
        top_p,
        rows.vocab_size,
        num_groups,
        NUM_GROUPS=power_of_2(num_groups),
        num_warps=4,
    )
    counts = torch.zeros(num_cut, dtype=torch.int32, device=device)
    masses = torch.zeros(num_cut, dtype=torch.int64, device=device)
    candidates = torch.empty((num_cut, rows.vocab_size), dtype=torch.float32, device=device)
    gather_candidates[(rows.num_pieces, num_cut)](
        candidates, counts, masses, *rows, *shared, bounds, rows.vocab_size, PIECE=PIECE, num_warps=8
    )
    search_floors[(num_cut,)](
        floors,
        candidates,
        counts,
        masses,
        bounds,
        cut,
        top_k,
        top_p,
        rows.vocab_size,
        BRANCHES=BRANCHES,
        WIDTH=WIDTH,
        num_warps=16,
    )


@triton.jit
def bound_floors(
    bounds,
    of_groups,
    cut,
    highest,
    temperatures,
    top_k,
    top_p,
    vocab_size,
    num_groups,
    NUM_GROUPS: tl.constexpr,
):
    """A weight below one row's floor. The grid is (cut rows,).

    The k-th highest of the groups' maxima is no higher than the k-th highest of all; where there
    are no k groups, 0 is. Without top-k: tokens that are all
    below (1 - top_p) * mass / vocab_size have less than (1 - top_p) of the mass together.
    """
    index = tl.program_id(0)
    row = tl.load(cut + index).to(tl.int64)
    lanes = tl.arange(0, NUM_GROUPS)
    largest = tl.load(of_groups + row * num_groups + lanes, mask=lanes < num_groups, other=float("-inf"))
    own = weights(largest, tl.load(highest + row), tl.load(temperatures + row))
    k = tl.load(top_k + row)
    share = (1.0 - tl.load(top_p + row)).to(tl.float32)
    by_mass = share * tl.sum(own, 0) / vocab_size
    by_count = tl.sum(tl.where(lanes == k - 1, tl.sort(own, descending=True), 0.0), 0)
    tl.store(bounds + index, tl.where(k > 0, by_count, by_mass) * SLACK)


@triton.jit
def gather_candidates(
    candidates,
    counts,
    masses,
    logits,
    edited,
    places,
    cut,
    highest,
    temperatures,
    bounds,
    vocab_size,
    PIECE: tl.constexpr,
):
    """The weights of one piece of one row that are not below the row's bound, in any order, and the mass of all. The
    grid is (pieces, cut rows)."""
    index = tl.program_id(1)
    row = tl.load(cut + index).to(tl.int64)
    tokens = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    numbers = load_finite(logits, edited, places, row, tokens, vocab_size)
    own = weights(numbers, tl.load(highest + row), tl.load(temperatures + row))
    tl.atomic_add(masses + index, tl.sum((own * MASS_OF_ONE).to(tl.int64), 0))
    is_candidate = (own >= tl.load(bounds + index)) & (own > 0)
    ranks = tl.cumsum(is_candidate.to(tl.int32), 0)
    first = tl.atomic_add(counts + index, tl.sum(is_candidate.to(tl.int32), 0))
    tl.store(candidates + index.to(tl.int64) * vocab_size + first + ranks - 1, own, mask=is_candidate)


@triton.jit
def search_floors(
    floors,
    candidates,
    counts,
    masses,
    bounds,
    cut,
    top_k,
    top_p,
    vocab_size,
    BRANCHES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One row's floor, out of its candidates. The grid is (cut rows,)."""
    index = tl.program_id(0)
    row = tl.load(cut + index).to(tl.int64)
    candidates += index.to(tl.int64) * vocab_size
    num = tl.load(counts + index)
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    low = tl.load(bounds + index).to(tl.int32, bitcast=True)
    mass = tl.load(masses + index)
    if k > 0:
        low = _search(candidates, num, low, k.to(tl.int64), True, BRANCHES, WIDTH)
        mass = tl.max(_totals(candidates, num, low + tl.arange(0, BRANCHES) * 0, False, BRANCHES, WIDTH), 0)
    if p < 1:
        wanted = tl.ceil(p * mass.to(tl.float64)).to(tl.int64)
        low = _search(candidates, num, low, wanted, False, BRANCHES, WIDTH)
    tl.store(floors + row, tl.maximum(tl.load(floors + row), low.to(tl.float32, bitcast=True)))


@triton.jit
def _search(candidates, num, low, wanted, COUNTS: tl.constexpr, BRANCHES: tl.constexpr, WIDTH: tl.constexpr):
    """The bits of the highest floor from `low` on that leaves as many candidates, or as much mass, as is wanted; `low`
    where none does. Every round leaves one of BRANCHES parts of what was left."""
    high = BITS_OF_ONE + 1
    branches = tl.arange(0, BRANCHES)
    while high - low > 1:
        step = (high - low + BRANCHES - 1) // BRANCHES
        floors = low + step * branches
        is_enough = (_totals(candidates, num, floors, COUNTS, BRANCHES, WIDTH) >= wanted) & (floors < high)
        low += step * tl.sum((is_enough & (branches > 0)).to(tl.int32), 0)
        high = tl.minimum(high, low + step)
    return low


@triton.jit
def _totals(candidates, num, floors, COUNTS: tl.constexpr, BRANCHES: tl.constexpr, WIDTH: tl.constexpr):
    """How many candidates are not below each of some floors, given by their bits, or what mass they have."""
    totals = tl.full([BRANCHES, WIDTH], 0, tl.int64)
    for first in range(0, num, WIDTH):
        places = first + tl.arange(0, WIDTH)
        own = tl.load(candidates + places, mask=places < num, other=-1.0)
        values = tl.full([WIDTH], 1, tl.int64) if COUNTS else (own * MASS_OF_ONE).to(tl.int64)
        is_kept = own.to(tl.int32, bitcast=True)[None, :] >= floors[:, None]
        totals += tl.where(is_kept, values[None, :], 0)
    return tl.sum(totals, 1)
