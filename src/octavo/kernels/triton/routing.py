"""Which rows go through which experts: chosen, and grouped by expert, on the device."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.layout import power_of_2

SCORED_AT_ONCE = 16384
"""Products of a token with the router that one program holds."""
COMPARED_AT_ONCE = 8192
"""Pairs of a chosen expert and one that it may be, that one program compares."""
BLOCK = 1024
"""Elements of a row that one program sums."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The pairs of a token and one of its experts. Pair `token * num_chosen + place` is the token's expert that scores
    highest but for `place` others."""

    num_chosen: int
    chosen: torch.Tensor
    """`[num_tokens, num_chosen]` int32: the experts."""
    shares: torch.Tensor
    """`[num_tokens, num_chosen]` float32: the softmax of their scores."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Pairs grouped by expert, in tiles of one expert each."""

    pairs: torch.Tensor
    """`[num_tiles, rows]` int32: a tile's pairs, -1 past its end. Not set in tiles that have no expert."""
    experts: torch.Tensor
    """`[num_tiles]` int32: -1 past the last tile in use."""


def route(hidden: torch.Tensor, router: torch.Tensor, num_chosen: int) -> Routes:
    """Score each token for each expert in float32, and choose: one launch.

    Args:
        hidden: `[num_tokens, width]`, contiguous.
        router: `[num_experts, width]`, contiguous.
    """
    num_tokens, width = hidden.shape
    num_experts = len(router)
    chosen = torch.empty(num_tokens, num_chosen, dtype=torch.int32, device=hidden.device)
    shares = torch.empty(num_tokens, num_chosen, dtype=torch.float32, device=hidden.device)
    lanes = power_of_2(num_experts)
    _route[(num_tokens,)](
        chosen,
        shares,
        hidden,
        router,
        width,
        NUM_EXPERTS=num_experts,
        EXPERTS=lanes,
        NUM_CHOSEN=num_chosen,
        CHOSEN=power_of_2(num_chosen),
        PIECE=max(16, SCORED_AT_ONCE // lanes),
        num_warps=8,
    )
    return Routes(num_chosen, chosen, shares)


def group_pairs(routes: Routes, num_experts: int, rows: int) -> Tiles:
    """Group pairs by expert in tiles of `rows`, in their order: one launch. How many tiles are in use stays on the
    device."""
    num_pairs = routes.chosen.numel()
    num_tiles = min(num_pairs, num_pairs // rows + num_experts)
    pairs = torch.empty(num_tiles, rows, dtype=torch.int32, device=routes.chosen.device)
    experts = torch.empty(num_tiles, dtype=torch.int32, device=routes.chosen.device)
    lanes = power_of_2(num_experts)
    _group_pairs[(num_experts,)](
        pairs,
        experts,
        routes.chosen,
        num_pairs,
        num_tiles,
        EXPERTS=lanes,
        ROWS=rows,
        PIECE=max(16, COMPARED_AT_ONCE // lanes),
        num_warps=4,
    )
    return Tiles(pairs, experts)


def sum_results(results: torch.Tensor, routes: Routes) -> torch.Tensor:
    """Add up each token's results, `[num_tokens * num_chosen, width]`, by their shares, the highest first: one launch.
    Sums are in float32."""
    num_tokens, width = len(routes.chosen), results.shape[1]
    total = torch.empty(num_tokens, width, dtype=results.dtype, device=results.device)
    _sum_results[(num_tokens, triton.cdiv(width, BLOCK))](
        total, results, routes.shares, width, NUM_CHOSEN=routes.num_chosen, BLOCK=BLOCK, num_warps=4
    )
    return total


@triton.jit
def _route(
    chosen,
    shares,
    hidden,
    router,
    width,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    NUM_CHOSEN: tl.constexpr,
    CHOSEN: tl.constexpr,
    PIECE: tl.constexpr,
):
    """One token: its scores, the highest of them, and their softmax."""
    token = tl.program_id(0).to(tl.int64)
    experts = tl.arange(0, EXPERTS)
    lanes = tl.arange(0, PIECE)
    scores = tl.zeros([EXPERTS], tl.float32)
    for start in range(0, width, PIECE):
        is_input = start + lanes < width
        own = tl.load(hidden + token * width + start + lanes, mask=is_input, other=0.0).to(tl.float32)
        is_weight = (experts < NUM_EXPERTS)[:, None] & is_input[None, :]
        weights = tl.load(router + experts[:, None] * width + start + lanes[None, :], mask=is_weight, other=0.0)
        scores += tl.sum(weights.to(tl.float32) * own[None, :], 1)
    # What is no number becomes infinite: it is chosen, and its softmax is no number.
    scores = tl.where(scores == scores, scores, float("inf"))
    is_free = experts < NUM_EXPERTS
    places = tl.arange(0, CHOSEN)
    highest = tl.full([CHOSEN], float("-inf"), tl.float32)
    for place in tl.static_range(NUM_CHOSEN):
        best = tl.max(tl.where(is_free, scores, float("-inf")), 0)
        expert = tl.min(tl.where(is_free & (scores == best), experts, EXPERTS), 0)
        tl.store(chosen + token * NUM_CHOSEN + place, expert)
        highest = tl.where(places == place, best, highest)
        is_free = is_free & (experts != expert)
    weights = tl.exp(highest - tl.max(highest, 0))
    tl.store(shares + token * NUM_CHOSEN + places, weights / tl.sum(weights, 0), mask=places < NUM_CHOSEN)


@triton.jit(do_not_specialize=["num_pairs", "num_tiles"])
def _group_pairs(
    tile_pairs,
    tile_experts,
    chosen,
    num_pairs,
    num_tiles,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECE: tl.constexpr,
):
    """One expert's tiles. It counts the pairs of all experts, to know where its own tiles begin."""
    expert = tl.program_id(0)
    experts = tl.arange(0, EXPERTS)
    lanes = tl.arange(0, PIECE)
    counts = tl.zeros([EXPERTS], tl.int32)
    for start in range(0, num_pairs, PIECE):
        pieces = tl.load(chosen + start + lanes, mask=start + lanes < num_pairs, other=-1)
        counts += tl.sum((pieces[:, None] == experts[None, :]).to(tl.int32), 0)
    tiles = (counts + ROWS - 1) // ROWS
    first_tile = tl.sum(tl.where(experts < expert, tiles, 0), 0)
    end_tile = first_tile + tl.sum(tl.where(experts == expert, tiles, 0), 0)
    found = first_tile * ROWS
    for start in range(0, num_pairs, PIECE):
        pieces = tl.load(chosen + start + lanes, mask=start + lanes < num_pairs, other=-1)
        is_own = pieces == expert
        ranks = tl.cumsum(is_own.to(tl.int32), 0)
        tl.store(tile_pairs + found + ranks - 1, start + lanes, mask=is_own)
        found += tl.sum(is_own.to(tl.int32), 0)
    rest = found + tl.arange(0, ROWS)
    tl.store(tile_pairs + rest, -1, mask=rest < end_tile * ROWS)
    for tile in range(first_tile, end_tile):
        tl.store(tile_experts + tile, expert)
    if expert == tl.num_programs(0) - 1:
        for tile in range(end_tile, num_tiles):
            tl.store(tile_experts + tile, -1)


@triton.jit
def _sum_results(total, results, shares, width, NUM_CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of one token."""
    token = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_dim = dims < width
    sums = tl.zeros([BLOCK], tl.float32)
    for place in tl.static_range(NUM_CHOSEN):
        pair = token * NUM_CHOSEN + place
        result = tl.load(results + pair * width + dims, mask=is_dim, other=0.0)
        sums += result.to(tl.float32) * tl.load(shares + pair)
    tl.store(total + token * width + dims, sums.to(total.dtype.element_ty), mask=is_dim)
