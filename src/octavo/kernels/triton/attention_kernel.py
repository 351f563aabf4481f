"""The kernels of paged attention (paper, section 4.1): one for prefill and decode, and one that merges chunks."""

import triton
import triton.language as tl

from octavo.kernels.triton.attention_span import attend_span, merge

INDICES = ("block_tables", "tables", "query_starts", "context_lens", "shared")
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
    shared,
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
    IS_CAUSAL: tl.constexpr,
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

    Where `shared` is given (only with FEW and SPLIT, where all is seen) rows read once what they have in common
    (cascade). FEW_TOKENS rows side by side, counted from the batch's first, are a team. A chunk that a row of a team
    shares with the row before it is left to that row's program, which has room for both in its tile. It does for each
    what the row's own program would do, so bits are the same.

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
    if not IS_CAUSAL:  # each token sees what the row's last one does
        end = context
        first_position = context - 1
        positions = first_position + lanes * 0
    start = tl.maximum(first_position - window + 1, 0) if HAS_WINDOW else 0
    first_chunk = start // CHUNK
    num_seen = (end - 1) // CHUNK + 1 - first_chunk
    parts = row * tokens_a_row + tokens
    chunk = tl.program_id(1)
    if shared is not None:
        if row % FEW_TOKENS != 0:
            chunk += (tl.load(shared + row) // CHUNK).to(tl.int32)
        in_team = (tokens > 0) & (row % FEW_TOKENS + tokens < FEW_TOKENS) & (row + tokens < num_rows)
        common = (tl.load(shared + row + tokens, mask=in_team, other=0) // CHUNK).to(tl.int32)
        # A row with several new tokens shares nothing, nor does the one after it.
        parts = tl.where(num_new == 1, (row + tokens) * tokens_a_row, parts)
        is_row = (lanes // GROUP < TOKENS) & (
            tokens < tl.maximum(num_new, _num_together(chunk, common, tokens, TOKENS))
        )
    if SPLIT and chunk >= num_seen:
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
            for own_chunk in tl.range(chunk, num_seen, tl.num_programs(1), disable_licm=True):
                is_own = is_row
                if shared is not None:
                    is_own = is_row & (tokens < tl.maximum(num_new, _num_together(own_chunk, common, tokens, TOKENS)))
                _attend_chunk(
                    own_chunk, first_chunk, parts, num_heads, num_chunks, is_own, heads,
                    result, statistics, start, end, first_position,
                    queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
                    window, scale, capped_scale,
                    OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP,
                )  # fmt: skip
        else:
            _attend_chunk(
                chunk, first_chunk, parts, num_heads, num_chunks, is_row, heads,
                result, statistics, start, end, first_position,
                queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
                window, scale, capped_scale,
                OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP,
            )  # fmt: skip
    else:
        _, weight_sum, total = attend_span(
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
    parts,
    num_heads,
    num_chunks,
    is_row,
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
    """Leave the sums of one chunk, counted from the first that is seen, for the merge. `parts` are the places of tokens
    among those of all rows."""
    chunk_start = (first_chunk + chunk) * CHUNK
    largest, weight_sum, total = attend_span(
        tl.maximum(start, chunk_start), tl.minimum(end, chunk_start + CHUNK), first_position,
        queries, positions, table, key_base, value_base, record_stride, key_scales, scale_part_stride,
        window, scale, capped_scale,
        OPERAND, HEAD_DIM, WIDTH, BLOCK_SIZE, ROWS, KEYS, CHUNK, HAS_WINDOW, HAS_SOFTCAP, True,
    )  # fmt: skip
    dims = tl.arange(0, WIDTH)
    part = (parts * num_heads + heads) * num_chunks + chunk
    places = part[:, None].to(tl.int64) * HEAD_DIM + dims[None, :]
    tl.store(result + places, total, mask=is_row[:, None] & (dims < HEAD_DIM)[None, :])
    tl.store(statistics + part * 2, largest, mask=is_row)
    tl.store(statistics + part * 2 + 1, weight_sum, mask=is_row)


@triton.jit
def _num_together(chunk, common, members, MOST: tl.constexpr):
    """How many rows of a team, from a program's own on, share a chunk, each with the one before it. `common` is the
    number of first chunks that each of the `members` shares so."""
    return tl.min(tl.where((members == 0) | (chunk < common), MOST, members))


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
    # A long row has hundreds of chunks, and their order is fixed: the next ones are on their way meanwhile.
    for chunk in tl.range(end_chunk - first_chunk, num_stages=8):
        places = (part + chunk) * HEAD_DIM + dims[None, :]
        next_total = tl.load(partial + places, mask=is_dim[None, :], other=0.0)
        next_largest = tl.load(statistics + (part + chunk) * 2 + one)
        next_sum = tl.load(statistics + (part + chunk) * 2 + 1 + one)
        largest, weight_sum, total = merge(largest, weight_sum, total, next_largest, next_sum, next_total)
    places = ((query_start + token) * tl.num_programs(0) + head) * HEAD_DIM + dims[None, :]
    tl.store(attended + places, (total / weight_sum[:, None]).to(attended.dtype.element_ty), mask=is_dim[None, :])
