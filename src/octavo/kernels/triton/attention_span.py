"""What a program of attention does: reduce a span of keys, chunk by chunk, and merge chunks in their order."""

import triton
import triton.language as tl


@triton.jit
def attend_span(
    start,
    end,
    first_position,
    queries,
    positions,
    table,
    key_base,
    value_base,
    record_stride,
    key_scales,
    scale_part_stride,
    window,
    scale,
    capped_scale,
    OPERAND: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Reduce the keys from `start` to `end`, which are of one chunk (SPLIT) or of several, merged in their order: the
    rows' largest scores, sums of weights, and unnormalised sums."""
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    weight_sum = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    merged_largest = tl.full([ROWS], float("-inf"), tl.float32)
    merged_sum = tl.zeros([ROWS], tl.float32)
    merged_total = tl.zeros([ROWS, WIDTH], tl.float32)
    # Tiles that all rows see whole need no masks, which cost as much as a fifth of the rest.
    begin = start // KEYS * KEYS
    masked_begin = begin
    if not HAS_WINDOW:
        masked_begin = tl.maximum(begin, tl.minimum(end, first_position + 1) // KEYS * KEYS)
        largest, weight_sum, total, merged_largest, merged_sum, merged_total = _attend_keys(
            begin, masked_begin, largest, weight_sum, total, merged_largest, merged_sum, merged_total,
            queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride, start, end,
            window, scale, capped_scale,
            OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP, SPLIT, False,
        )  # fmt: skip
    largest, weight_sum, total, merged_largest, merged_sum, merged_total = _attend_keys(
        masked_begin, end, largest, weight_sum, total, merged_largest, merged_sum, merged_total,
        queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride, start, end,
        window, scale, capped_scale,
        OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP, SPLIT, True,
    )  # fmt: skip
    if not SPLIT:
        largest, weight_sum, total = merge(merged_largest, merged_sum, merged_total, largest, weight_sum, total)
    return largest, weight_sum, total


@triton.jit
def _attend_keys(
    begin,
    stop,
    largest,
    weight_sum,
    total,
    merged_largest,
    merged_sum,
    merged_total,
    queries,
    positions,
    table,
    key_base,
    value_base,
    record_stride,
    key_scales,
    scale_part_stride,
    start,
    end,
    window,
    scale,
    capped_scale,
    OPERAND: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    SPLIT: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Reduce the tiles of keys from `begin` to `stop`, and return the new state. Where they are MASKED, no keys before
    `start` nor from `end` on are read."""
    dims = tl.arange(0, WIDTH)
    is_dim = dims < HEAD_DIM
    for first_key in range(begin, stop, KEYS):
        if not SPLIT:  # noqa: SIM102 - the one is known when the kernel is compiled, the other is not
            if first_key % CHUNK == 0:
                merged_largest, merged_sum, merged_total = merge(
                    merged_largest, merged_sum, merged_total, largest, weight_sum, total
                )
                largest = tl.full([ROWS], float("-inf"), tl.float32)
                weight_sum = tl.zeros([ROWS], tl.float32)
                total = tl.zeros([ROWS, WIDTH], tl.float32)
        keys = first_key + tl.arange(0, KEYS)
        unsigned = keys.to(tl.uint32)  # divides by a shift
        slots = (unsigned % BLOCK_SIZE).to(tl.int32)
        if MASKED:
            # Slots that no row sees may hold NaN: they are not read.
            is_read = keys < end
            if HAS_WINDOW:
                is_read = is_read & (keys >= start)
            blocks = tl.load(table + unsigned // BLOCK_SIZE, mask=is_read, other=0)
            places = (blocks * record_stride + slots * HEAD_DIM)[:, None] + dims[None, :]
            is_piece = is_read[:, None] & is_dim[None, :]
            tile_keys = tl.load(key_base + places, mask=is_piece, other=0.0)
            tile_values = tl.load(value_base + places, mask=is_piece, other=0.0)
        else:
            blocks = tl.load(table + unsigned // BLOCK_SIZE)
            places = (blocks * record_stride + slots * HEAD_DIM)[:, None] + dims[None, :]
            if HEAD_DIM == WIDTH:
                tile_keys = tl.load(key_base + places)
                tile_values = tl.load(value_base + places)
            else:
                tile_keys = tl.load(key_base + places, mask=is_dim[None, :], other=0.0)
                tile_values = tl.load(value_base + places, mask=is_dim[None, :], other=0.0)
        scores = tl.dot(queries, tl.trans(tile_keys.to(OPERAND)), input_precision="ieee")
        if key_scales is not None:
            scale_places = blocks * (record_stride // 4) + slots
            if MASKED:
                own_key_scales = tl.load(key_scales + scale_places, mask=is_read, other=0.0)
                value_scales = tl.load(key_scales + scale_part_stride + scale_places, mask=is_read, other=0.0)
            else:
                own_key_scales = tl.load(key_scales + scale_places)
                value_scales = tl.load(key_scales + scale_part_stride + scale_places)
            scores *= own_key_scales[None, :]
            tile_values = tile_values.to(tl.float32) * value_scales[:, None]
        tile_values = tile_values.to(OPERAND)
        score_scale = scale
        if HAS_SOFTCAP:
            scores = 1.0 - 2.0 / (tl.exp2(scores * scale * 2.8853900817779268) + 1.0)  # tanh
            score_scale = capped_scale
        if MASKED:
            is_seen = keys[None, :] <= positions[:, None]
            if HAS_WINDOW:
                is_seen = is_seen & (keys[None, :] > positions[:, None] - window)
            scores = tl.where(is_seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1) * score_scale)
        base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(tl.fma(scores, score_scale, -base[:, None]))
        decay = tl.exp2(largest - base)
        weight_sum = tl.fma(weight_sum, decay, tl.sum(weights, 1))
        total = tl.dot(weights.to(OPERAND), tile_values, total * decay[:, None], input_precision="ieee")
        largest = new_largest
    return largest, weight_sum, total, merged_largest, merged_sum, merged_total


@triton.jit
def merge(largest, weight_sum, total, next_largest, next_sum, next_total):
    """Add the next chunk to those before it. A chunk in which a row sees nothing changes no bit."""
    new_largest = tl.maximum(largest, next_largest)
    base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    decay = tl.exp2(largest - base)
    next_decay = tl.exp2(next_largest - base)
    weight_sum = tl.fma(next_sum, next_decay, weight_sum * decay)
    total = tl.fma(next_total, next_decay[:, None], total * decay[:, None])
    return new_largest, weight_sum, total
