"""The kernels of paged attention (paper, section 4.1): one for prefill and decode, and one that merges chunks."""

import triton
import triton.language as tl

INDICES = ("block_tables", "tables", "query_starts", "context_lens")
"""Arrays of a step, which may begin anywhere in its buffer. No kernel is compiled anew for where they begin, nor for a
number that changes from step to step."""


@triton.jit(do_not_specialize=[*INDICES, "num_rows", "tokens_a_row", "num_chunks"])
def attend(
    result,
    statistics,
    query,
    records,
    scales,
    block_tables,
    tables,
    query_starts,
    context_lens,
    scale,
    capped_scale,
    num_rows,
    window,
    record_stride,
    part_stride,
    table_stride,
    query_stride,
    tokens_a_row,
    num_chunks,
    OPERAND: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    CHUNK: tl.constexpr,
    FEW_TOKENS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    FEW: tl.constexpr,
    SPLIT: tl.constexpr,
    LOOPS: tl.constexpr,
):
    """One KV head, some new tokens of one row, and their whole context, or one chunk of it (SPLIT), or several (LOOPS).

    FEW: all new tokens of a row that has no more than FEW_TOKENS; the grid is (KV heads, programs a row, rows).
    Otherwise one tile of a row that has more; the grid is (tiles, KV heads). `records` begins at the layer's place, and
    so does `scales`, None but for an int8 cache. Products are of numbers in dtype OPERAND. Scores are powers of two:
    `scale` has log2(e) in it, or, where they are capped, `capped_scale` has.

    SPLIT writes each chunk's unnormalised sum to `result` (`[rows, tokens_a_row, heads, num_chunks, HEAD_DIM]`), its
    largest score and sum of weights to `statistics`; else `result` is `[num_tokens, heads, HEAD_DIM]`.
    """
    TOKENS: tl.constexpr = FEW_TOKENS if FEW else ROWS // GROUP
    if FEW:
        kv_head = tl.program_id(0)
        num_heads = tl.num_programs(0) * GROUP
        row = tl.program_id(2)
        first_token = 0
    else:
        kv_head = tl.program_id(1)
        num_heads = tl.num_programs(1) * GROUP
        # A row's last tiles see the most: they begin first, so that no long one is left at the end.
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        row = _row_of_tile(tile, query_starts, num_rows, TOKENS)
        first_token = (tile - tl.load(query_starts + row).to(tl.int32) // TOKENS - row) * TOKENS
    query_start = tl.load(query_starts + row)
    num_new = (tl.load(query_starts + row + 1) - query_start).to(tl.int32)
    context = tl.load(context_lens + row).to(tl.int32)
    table = block_tables + tl.load(tables + row) * table_stride
    if (num_new <= FEW_TOKENS) != FEW or first_token >= num_new:
        return

    # What the program's rows are, and what they see.
    lanes = tl.arange(0, ROWS)
    tokens = first_token + lanes // GROUP
    heads = kv_head * GROUP + lanes % GROUP
    is_row = (lanes // GROUP < TOKENS) & (tokens < num_new)
    first_position = context - num_new + first_token
    positions = first_position + lanes // GROUP
    end = tl.minimum(first_position + TOKENS, context)
    start = tl.maximum(first_position - window + 1, 0) if HAS_WINDOW else 0
    first_chunk = start // CHUNK
    num_seen = (end - 1) // CHUNK + 1 - first_chunk
    if SPLIT and tl.program_id(1) >= num_seen:
        return

    dims = tl.arange(0, WIDTH)
    is_dim = dims < HEAD_DIM
    query_places = query + (query_start + tokens)[:, None] * query_stride + heads[:, None] * HEAD_DIM + dims[None, :]
    is_number = is_row[:, None] & is_dim[None, :]
    queries = tl.load(query_places, mask=is_number, other=0.0).to(OPERAND)
    key_base = records + kv_head.to(tl.int64) * (BLOCK_SIZE * HEAD_DIM)
    value_base = key_base + part_stride
    key_scales = scales
    if scales is not None:
        key_scales = scales + kv_head * BLOCK_SIZE
    scale_part_stride = num_heads // GROUP * BLOCK_SIZE

    if SPLIT:
        if LOOPS:
            for chunk in tl.range(tl.program_id(1), num_seen, tl.num_programs(1), disable_licm=True):
                _attend_chunk(
                    chunk, first_chunk, row * tokens_a_row, num_heads, num_chunks, is_row, tokens, heads,
                    result, statistics, start, end, first_position,
                    queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
                    window, scale, capped_scale,
                    OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP,
                )  # fmt: skip
        else:
            _attend_chunk(
                tl.program_id(1), first_chunk, row * tokens_a_row, num_heads, num_chunks, is_row, tokens, heads,
                result, statistics, start, end, first_position,
                queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
                window, scale, capped_scale,
                OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP,
            )  # fmt: skip
    else:
        _, weight_sum, total = _attend_span(
            start, end, first_position,
            queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
            window, scale, capped_scale,
            OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP, False,
        )  # fmt: skip
        places = ((query_start + tokens) * num_heads + heads)[:, None] * HEAD_DIM + dims[None, :]
        tl.store(result + places, (total / weight_sum[:, None]).to(result.dtype.element_ty), mask=is_number)


@triton.jit
def _attend_chunk(
    chunk,
    first_chunk,
    first_part,
    num_heads,
    num_chunks,
    is_row,
    tokens,
    heads,
    result,
    statistics,
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
):
    """Leave the sums of one chunk, counted from the first that is seen, at its place behind `part`, for the merge."""
    chunk_start = (first_chunk + chunk) * CHUNK
    largest, weight_sum, total = _attend_span(
        tl.maximum(start, chunk_start), tl.minimum(end, chunk_start + CHUNK), first_position,
        queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
        window, scale, capped_scale,
        OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP, True,
    )  # fmt: skip
    dims = tl.arange(0, WIDTH)
    part = ((first_part + tokens) * num_heads + heads) * num_chunks + chunk
    places = part[:, None].to(tl.int64) * HEAD_DIM + dims[None, :]
    tl.store(result + places, total, mask=is_row[:, None] & (dims < HEAD_DIM)[None, :])
    tl.store(statistics + part * 2, largest, mask=is_row)
    tl.store(statistics + part * 2 + 1, weight_sum, mask=is_row)


@triton.jit
def _attend_span(
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
        largest, weight_sum, total = _merge(merged_largest, merged_sum, merged_total, largest, weight_sum, total)
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
                merged_largest, merged_sum, merged_total = _merge(
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
def _row_of_tile(tile, query_starts, num_rows, TOKENS: tl.constexpr):
    """The row that a tile of TOKENS new tokens belongs to.

    Row r's tiles begin at `query_starts[r] // TOKENS + r`, which leaves room for each row's last, unfilled one.
    """
    low = 0
    high = num_rows - 1
    while low < high:
        middle = (low + high + 1) // 2
        if tl.load(query_starts + middle).to(tl.int32) // TOKENS + middle <= tile:
            low = middle
        else:
            high = middle - 1
    return low


@triton.jit
def _merge(largest, weight_sum, total, next_largest, next_sum, next_total):
    """Add the next chunk to those before it. A chunk in which a row sees nothing changes no bit."""
    new_largest = tl.maximum(largest, next_largest)
    base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    decay = tl.exp2(largest - base)
    next_decay = tl.exp2(next_largest - base)
    weight_sum = tl.fma(next_sum, next_decay, weight_sum * decay)
    total = tl.fma(next_total, next_decay[:, None], total * decay[:, None])
    return new_largest, weight_sum, total


@triton.jit(do_not_specialize=[*INDICES, "num_chunks"])
def merge_chunks(
    attended,
    partial,
    statistics,
    query_starts,
    context_lens,
    window,
    num_chunks,
    FEW_TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """What `attend` wrote of one token and head with SPLIT, merged in order. The grid is (heads, tokens, rows)."""
    head = tl.program_id(0)
    token = tl.program_id(1)
    row = tl.program_id(2)
    query_start = tl.load(query_starts + row)
    num_new = (tl.load(query_starts + row + 1) - query_start).to(tl.int32)
    context = tl.load(context_lens + row).to(tl.int32)
    if num_new > FEW_TOKENS or token >= num_new:
        return
    first_position = context - num_new
    first_chunk = tl.maximum(first_position - window + 1, 0) // CHUNK if window > 0 else 0
    end_chunk = (context - 1) // CHUNK + 1
    dims = tl.arange(0, WIDTH)
    is_dim = dims < HEAD_DIM
    largest = tl.full([1], float("-inf"), tl.float32)
    weight_sum = tl.zeros([1], tl.float32)
    total = tl.zeros([1, WIDTH], tl.float32)
    part = ((row * tl.num_programs(1) + token) * tl.num_programs(0) + head).to(tl.int64) * num_chunks
    one = tl.arange(0, 1)
    for chunk in range(end_chunk - first_chunk):
        places = (part + chunk) * HEAD_DIM + dims[None, :]
        next_total = tl.load(partial + places, mask=is_dim[None, :], other=0.0)
        next_largest = tl.load(statistics + (part + chunk) * 2 + one)
        next_sum = tl.load(statistics + (part + chunk) * 2 + 1 + one)
        largest, weight_sum, total = _merge(largest, weight_sum, total, next_largest, next_sum, next_total)
    places = ((query_start + token) * tl.num_programs(0) + head) * HEAD_DIM + dims[None, :]
    tl.store(attended + places, (total / weight_sum[:, None]).to(attended.dtype.element_ty), mask=is_dim[None, :])
