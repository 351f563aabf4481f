"""New tokens' K and V into their slots, with the norms and rotation of their heads, in one launch."""

import torch
import triton
import triton.language as tl

from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import KVCache
from octavo.kernels.quantized import FP8, INT8
from octavo.kernels.triton.layout import power_of_2, scales, vectors

HEADS = 8
"""Of one token, that one program takes."""
LARGEST_INT8 = tl.constexpr(float(INT8.largest))
LARGEST_E4M3 = tl.constexpr(float(FP8.largest))
ROUNDER = tl.constexpr(1.5 * 2**23)
"""Added to a small float32 and taken off again, it rounds to a whole number, to nearest even."""


def write_kv(qkv: torch.Tensor, cache: KVCache, batch: RaggedBatch, spec: AttentionSpec) -> torch.Tensor:
    """Normalise and rotate query and key heads as `spec` says, and put K and V into the tokens' slots.

    Args:
        qkv: `[num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]`: query heads, key heads, value heads.

    Returns:
        The query heads, `[num_tokens, num_heads, head_dim]`, for `paged_attention`: a view of `qkv` where they are
        neither normalised nor rotated.
    """
    layer_group, place = cache.shape.layer_groups.place(spec.layer)
    values, own_scales = vectors(cache), scales(cache)
    is_changed = spec.query_norm is not None or spec.cos_sin is not None
    query = qkv[:, : spec.num_heads * spec.head_dim].view(len(qkv), spec.num_heads, spec.head_dim)
    result = torch.empty_like(query, memory_format=torch.contiguous_format) if is_changed else query
    query_tiles = triton.cdiv(spec.num_heads, HEADS) if is_changed else 0
    kv_tiles = triton.cdiv(spec.num_kv_heads, HEADS)
    _write_heads[(len(qkv), query_tiles + 2 * kv_tiles)](
        result,
        values[:, place],
        None if own_scales is None else own_scales[:, place],
        qkv,
        batch.slots[layer_group],
        batch.positions,
        spec.query_norm,
        spec.key_norm,
        spec.cos_sin,
        spec.norm_eps,
        values.stride(0),
        values.stride(2),
        qkv.stride(0),
        QUERY_TILES=query_tiles,
        KV_TILES=kv_tiles,
        QUERY_HEADS=spec.num_heads,
        KV_HEADS=spec.num_kv_heads,
        HEAD_DIM=spec.head_dim,
        WIDTH=power_of_2(spec.head_dim),
        ROTARY_DIM=0 if spec.cos_sin is None else spec.cos_sin.shape[1],
        BLOCK_SIZE=cache.shape.block_size,
        HEADS=HEADS,
        num_warps=4,
    )
    return result


@triton.jit(do_not_specialize=["slots", "positions"])  # they may begin anywhere in a step's buffer
def _write_heads(
    query,
    records,
    scales,
    qkv,
    slots,
    positions,
    query_norm,
    key_norm,
    cos_sin,
    eps,
    record_stride,
    part_stride,
    qkv_stride,
    QUERY_TILES: tl.constexpr,
    KV_TILES: tl.constexpr,
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Up to HEADS heads of one token: query heads go to `query`, `[num_tokens, QUERY_HEADS, HEAD_DIM]`, the others to
    the token's slot. The grid is (tokens, tiles of query, key and value heads)."""
    token = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    own = qkv + token * qkv_stride
    position = tl.load(positions + token)
    dims = tl.arange(0, WIDTH)[None, :]
    lanes = tl.arange(0, HEADS)[:, None]
    if tile < QUERY_TILES:
        heads = tile * HEADS + lanes
        is_piece = (heads < QUERY_HEADS) & (dims < HEAD_DIM)
        changed = _normalise_and_rotate(
            own, heads, is_piece, query_norm, eps, cos_sin, position, HEAD_DIM, WIDTH, ROTARY_DIM
        )
        query_places = query + (token * QUERY_HEADS + heads) * HEAD_DIM + dims
        tl.store(query_places, changed.to(query.dtype.element_ty), mask=is_piece)
    else:
        slot = tl.load(slots + token)
        block = slot // BLOCK_SIZE
        offset = slot % BLOCK_SIZE
        heads = (tile - QUERY_TILES) % KV_TILES * HEADS + lanes
        is_piece = (heads < KV_HEADS) & (dims < HEAD_DIM)
        places = records + block * record_stride + heads * (BLOCK_SIZE * HEAD_DIM) + offset * HEAD_DIM + dims
        scale_places = scales
        if scales is not None:
            scale_places = scales + block * (record_stride // 4) + heads * BLOCK_SIZE + offset
        own += QUERY_HEADS * HEAD_DIM
        if tile < QUERY_TILES + KV_TILES:
            changed = _normalise_and_rotate(
                own, heads, is_piece, key_norm, eps, cos_sin, position, HEAD_DIM, WIDTH, ROTARY_DIM
            )
            _store(places, scale_places, 0, 0, changed.to(qkv.dtype.element_ty), heads < KV_HEADS, is_piece)
        else:
            values = tl.load(own + (KV_HEADS + heads) * HEAD_DIM + dims, mask=is_piece, other=0.0)
            _store(places, scale_places, part_stride, KV_HEADS * BLOCK_SIZE, values, heads < KV_HEADS, is_piece)


@triton.jit
def _store(places, scale_places, part, scale_part, heads, is_head, is_piece):
    """Put heads into their slots, `part` numbers behind `places`, as the reference's `CachedVectors` does: in int8
    where there are scales, `scale_part` numbers behind `scale_places`."""
    dtype = places.dtype.element_ty
    if scale_places is not None:
        wide = heads.to(tl.float32)
        # A NaN, which a largest number hides, makes its head's scale infinite, and what is read of it NaN.
        largest = tl.max(tl.where(wide == wide, tl.abs(wide), float("inf")), 1)[:, None]
        inverse = tl.where(largest > 0, tl.div_rn(LARGEST_INT8, tl.where(largest > 0, largest, 1.0)), 0.0)
        numbers = tl.clamp(wide * inverse + ROUNDER - ROUNDER, -LARGEST_INT8, LARGEST_INT8)
        tl.store(scale_places + scale_part, tl.div_rn(largest, LARGEST_INT8), mask=is_head)
        tl.store(places + part, numbers.to(dtype), mask=is_piece)
    elif dtype == tl.float8e4nv:
        wide = heads.to(tl.float32)
        numbers = tl.clamp(wide, -LARGEST_E4M3, LARGEST_E4M3, propagate_nan=tl.PropagateNan.ALL)
        tl.store(places + part, numbers.to(dtype), mask=is_piece)
    else:
        tl.store(places + part, heads.to(dtype), mask=is_piece)


@triton.jit
def _normalise_and_rotate(
    own,
    heads,
    is_piece,
    norm,
    eps,
    cos_sin,
    position,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
):
    """Heads of one token, `[HEADS, WIDTH]`, in float32 but rounded as the reference rounds them. `norm` and `cos_sin`
    may be None."""
    dims = tl.arange(0, WIDTH)[None, :]
    is_dim = dims < HEAD_DIM
    raw = tl.load(own + heads * HEAD_DIM + dims, mask=is_piece, other=0.0)
    dtype = raw.dtype
    numbers = raw.to(tl.float32)
    inverse = 1.0
    if norm is not None:
        inverse = tl.rsqrt(tl.sum(numbers * numbers, 1) / HEAD_DIM + eps)[:, None]
        numbers = _scale(numbers, inverse, tl.load(norm + dims, mask=is_dim, other=0.0), dtype)
    if ROTARY_DIM > 0:
        half: tl.constexpr = ROTARY_DIM // 2
        is_rotated = dims < ROTARY_DIM
        partners = tl.where(dims < half, dims + half, dims - half)
        partner = tl.load(own + heads * HEAD_DIM + partners, mask=is_piece & is_rotated, other=0.0).to(tl.float32)
        if norm is not None:
            partner = _scale(partner, inverse, tl.load(norm + partners, mask=is_rotated, other=0.0), dtype)
        angles = cos_sin + position * ROTARY_DIM + dims % half
        cos = tl.load(angles, mask=is_rotated, other=1.0).to(tl.float32)
        sin = tl.load(angles + half, mask=is_rotated, other=0.0).to(tl.float32)
        numbers = numbers * cos + tl.where(dims < half, -partner, partner) * sin
    return numbers


@triton.jit
def _scale(numbers, inverse, norm, dtype: tl.constexpr):
    """RMS norm: rounded to the weight's dtype before the product with it, and to `dtype` after it."""
    normalised = (numbers * inverse).to(norm.dtype).to(tl.float32)
    return (normalised * norm.to(tl.float32)).to(norm.dtype).to(dtype).to(tl.float32)
