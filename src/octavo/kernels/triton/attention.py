"""Paged attention of a ragged batch: how a step is cut into programs of `attention_kernel.py`."""

from dataclasses import dataclass
from math import e, log2, prod

import torch
import triton

from octavo.errors import ConfigError
from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import CONTEXT_CHUNK, BatchExtent, RaggedBatch
from octavo.kernels.cache import KVCache
from octavo.kernels.triton.attention_kernel import attend, merge_chunks
from octavo.kernels.triton.layout import in_kernels, operand_dtype, power_of_2, scales, vectors
from octavo.layer_groups import FULL, Full, LayerKind, Window

CHUNK = CONTEXT_CHUNK
"""Tokens of context that are reduced on their own. Chunks are merged in their order, so that neither the batch nor the
number of programs decides how a row's sums are made."""
MOST_PROGRAMS = 1 << 14
"""Of rows with few new tokens. Beyond so many a program takes several chunks of its row: one long row beside short ones
would else bring a great many programs that find nothing to do."""
MOST_PARTIAL_BYTES = 128 << 20
"""Of the sums that programs leave to be merged. Where they would take more a program takes all chunks of its row; there
are rows and heads enough then."""
LEAST_SHARED = 1 << 14
"""Tokens, added up over rows, that rows must have in common with the row before them before such blocks are read once.
With fewer all programs find room on a GPU at once, and it gains nothing. Not yet measured."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work of one launch is cut."""

    rows: int
    """Of a program: new tokens x heads that share a KV head."""
    keys: int
    """Taken at a time, a divisor of `CHUNK`. It decides how sums are made: of one head size and dtype all launches have
    the same."""
    num_warps: int
    num_stages: int
    """Tiles of keys and values on their way at once."""
    split_registers: int | None = None
    """The most of a thread, where programs take chunks of a row; None leaves it to the compiler."""


def few_rows_tiling(group: int, head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> Tiling:
    """For rows with so few new tokens that one program owns them all: decode, and drafts to be verified. `dtype` is
    that of products."""
    rows, keys = max(16, power_of_2(group)), _keys(head_dim, dtype, cache_dtype)
    if dtype == torch.float32:
        return Tiling(rows, keys, num_warps=8 if rows * power_of_2(head_dim) > 4096 else 4, num_stages=3)
    # With 168 registers three programs fit a multiprocessor, as they do in its memory.
    return Tiling(rows, keys, num_warps=4, num_stages=3, split_registers=168)


def many_rows_tiling(group: int, head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> Tiling:
    """For all other rows: prefill and its chunks. Their sums, kept twice, must fit in the registers of a program."""
    fitting = 128 if power_of_2(head_dim) <= 128 else 64
    if dtype == torch.float32:  # no matrix units: what matters is that it is right
        fitting = 32
    return Tiling(max(fitting, power_of_2(group)), _keys(head_dim, dtype, cache_dtype), num_warps=8, num_stages=2)


def _keys(head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> int:
    """Keys at a time: 32 KB of them as they are multiplied, half of it where they are of 8 bits and pass through
    registers to be converted, less where numbers of 32 bits are multiplied without matrix units."""
    tile_bytes = 16384 if cache_dtype.itemsize == 1 else 32768
    if dtype == torch.float32:
        tile_bytes = 8192
    return max(16, min(128, tile_bytes // (power_of_2(head_dim) * dtype.itemsize)))


def paged_attention(
    query: torch.Tensor,
    cache: KVCache,
    batch: RaggedBatch,
    spec: AttentionSpec,
    extent: BatchExtent,
    *,
    few_rows: Tiling | None = None,
    many_rows: Tiling | None = None,
) -> torch.Tensor:
    """Attention of the new tokens over their rows' blocks.

    A row's result depends on its own tokens and on how many of them are new, never on the rest of the batch, bit for
    bit.

    Args:
        query: `[num_tokens, num_heads, head_dim]`, normalised and rotated; K and V are in the cache. A token's heads
            are contiguous.
        spec: its norms and rotation are not applied here.
        few_rows: how to cut rows with few new tokens, and `many_rows` the others, where measurements ask for it.

    Returns:
        `[num_tokens, num_heads, head_dim]`, the query's dtype. Sums are in float32.
    """
    dtypes = operand_dtype(cache, query.dtype), cache.shape.dtype
    group = spec.num_heads // spec.num_kv_heads
    few_rows = few_rows or few_rows_tiling(group, spec.head_dim, *dtypes)
    many_rows = many_rows or many_rows_tiling(group, spec.head_dim, *dtypes)
    attended = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    launch = _Launch(query, attended, cache, batch, spec, few_tokens=few_rows.rows // group)
    if extent.fewest_new <= launch.few_tokens:
        launch.few(few_rows, extent)
    if extent.most_new > launch.few_tokens:
        launch.many(many_rows)
    return attended


def cascades(extent: BatchExtent) -> bool:
    """Whether rows share so much that their common blocks are read once."""
    return extent.num_shared >= LEAST_SHARED


def window_of(kind: LayerKind) -> int | None:
    """The most tokens that a token sees, itself among them; None where it sees all before it, or all of its row.

    Raises:
        ConfigError: these kernels have no attention of such a kind.
    """
    match kind:
        case Full():
            return None
        case Window(size, True):
            return size
    raise ConfigError(f"the Triton kernels have no attention of kind '{kind}': use --kernels reference")


@dataclass(frozen=True, slots=True)
class _Launch:
    query: torch.Tensor
    attended: torch.Tensor
    cache: KVCache
    batch: RaggedBatch
    spec: AttentionSpec
    few_tokens: int
    """A row with more new tokens is cut into tiles."""

    def few(self, tiling: Tiling, extent: BatchExtent) -> None:
        """Attend for the rows with few new tokens: a program a row, KV head and chunk, or several chunks, or all. A
        row's bits are the same whichever."""
        spec, num_rows = self.spec, len(self.batch.context_lens)
        num_chunks = self._most_chunks(extent.longest_context)
        tokens = min(extent.most_new, self.few_tokens)
        parts = (num_rows, tokens, spec.num_heads, num_chunks)
        if num_chunks == 1 or 4 * prod(parts) * (spec.head_dim + 2) > MOST_PARTIAL_BYTES:
            self._attend((spec.num_kv_heads, 1, num_rows), tiling, self.attended, self.attended, split=False, few=True)
            return
        device = self.query.device
        partial = torch.empty((*parts, spec.head_dim), dtype=torch.float32, device=device)
        statistics = torch.empty((*parts, 2), dtype=torch.float32, device=device)
        programs_a_row = min(num_chunks, triton.cdiv(MOST_PROGRAMS, spec.num_kv_heads * num_rows))
        grid = (spec.num_kv_heads, programs_a_row, num_rows)
        self._attend(
            grid, tiling, partial, statistics, split=True, few=True, tokens=tokens, num_chunks=num_chunks,
            shared=self._shared(extent),
        )  # fmt: skip
        merge_chunks[(spec.num_heads, tokens, num_rows)](
            self.attended,
            partial,
            statistics,
            self.batch.query_starts,
            self.batch.context_lens,
            window_of(spec.kind) or 0,
            num_chunks,
            FEW_TOKENS=self.few_tokens,
            HEAD_DIM=spec.head_dim,
            WIDTH=power_of_2(spec.head_dim),
            CHUNK=CHUNK,
            num_warps=1,
        )

    def many(self, tiling: Tiling) -> None:
        """Attend for the other rows: a program a tile of a row's new tokens and KV head, which walks all its chunks."""
        tokens = tiling.rows // (self.spec.num_heads // self.spec.num_kv_heads)
        # Each row may end in a tile that is not full.
        num_tiles = len(self.query) // tokens + len(self.batch.context_lens)
        self._attend(
            (num_tiles, self.spec.num_kv_heads, 1), tiling, self.attended, self.attended, split=False, few=False
        )

    def _shared(self, extent: BatchExtent) -> torch.Tensor | None:
        """What rows have in common, where it is read once: where a tile has room for several rows that see all."""
        return self.batch.shared if self.spec.kind == FULL and self.few_tokens > 1 and cascades(extent) else None

    def _most_chunks(self, longest_context: int) -> int:
        """Chunks that the new tokens of one row can see."""
        most = -(-longest_context // CHUNK)
        window = window_of(self.spec.kind)
        return most if window is None else min(most, (window + self.few_tokens - 2) // CHUNK + 2)

    def _attend(
        self,
        grid: tuple[int, int, int],
        tiling: Tiling,
        result: torch.Tensor,
        statistics: torch.Tensor,
        *,
        split: bool,
        few: bool,
        tokens: int = 0,
        num_chunks: int = 0,
        shared: torch.Tensor | None = None,
    ) -> None:
        shape, spec, batch = self.cache.shape, self.spec, self.batch
        layer_group, place = shape.layer_groups.place(spec.layer)
        values, own_scales = vectors(self.cache), scales(self.cache)
        softcap, window = spec.softcap or 0.0, window_of(spec.kind)
        attend[grid](
            result,
            statistics,
            self.query,
            values[:, place],
            None if own_scales is None else own_scales[:, place],
            batch.block_tables[layer_group],
            batch.tables,
            batch.query_starts,
            batch.context_lens,
            shared,
            spec.scale / softcap if softcap else spec.scale * log2(e),
            softcap * log2(e),
            len(batch.context_lens),
            window or 0,
            values.stride(0),
            values.stride(2),
            batch.block_tables.stride(1),
            self.query.stride(0),
            tokens,
            num_chunks,
            OPERAND=in_kernels(operand_dtype(self.cache, self.query.dtype)),
            GROUP=spec.num_heads // spec.num_kv_heads,
            HEAD_DIM=spec.head_dim,
            WIDTH=power_of_2(spec.head_dim),
            BLOCK_SIZE=shape.block_size,
            ROWS=tiling.rows,
            KEYS=tiling.keys,
            CHUNK=CHUNK,
            FEW_TOKENS=self.few_tokens,
            IS_CAUSAL=spec.kind.is_causal,
            HAS_WINDOW=window is not None,
            HAS_SOFTCAP=spec.softcap is not None,
            FEW=few,
            SPLIT=split,
            LOOPS=split and grid[1] < num_chunks,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
            maxnreg=tiling.split_registers if split else None,
        )
