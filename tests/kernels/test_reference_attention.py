"""Paged attention of the reference kernels against a loop over single tokens in float64 that knows no blocks."""

import math
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels import reference_attention
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.quantized import quantize_rows, to_fp8
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.reference_attention import CachedVectors, Tile, paged_attention, plan_tiles, prepare, write_kv
from octavo.layer_groups import FULL, Full, LayerKind, Window, one_group

CPU = torch.device("cpu")
LAYERS = 2
FP8 = torch.float8_e4m3fn
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
TOLERANCE |= {torch.int8: 1e-5, FP8: 1e-5}
"""By the cache's dtype. Of one of 8 bits, beside what is lost in it."""


@dataclass
class Row:
    """A row's whole context, kept apart from the cache: `[num_tokens, num_kv_heads, head_dim]`; the last are new."""

    num_new: int
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def num_cached(self) -> int:
        return self.context_len - self.num_new

    @property
    def context_len(self) -> int:
        return self.keys.shape[0]


@dataclass
class Scene:
    """A step about to run: the cache holds the rows' old tokens and NaN everywhere else."""

    cache: KVCache
    batch: RaggedBatch
    rows: list[Row]
    query: torch.Tensor

    def new(self, part: str) -> torch.Tensor:
        return torch.cat([getattr(row, part)[row.num_cached :] for row in self.rows])

    @property
    def cached(self) -> CachedVectors:
        return CachedVectors(self.cache)


def make_scene(
    lengths: list[tuple[int, int]],
    *,
    block_size: int,
    num_kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 4,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    leftovers: float = math.nan,
) -> Scene:
    """Rows of (new, cached) tokens in shuffled blocks; every slot that no row owns holds `leftovers`.

    Keys and values are such as a cache of `dtype` holds exactly.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape)).to(torch.float32 if dtype.itemsize == 1 else dtype)

    def vectors(*shape: int) -> torch.Tensor:
        return as_cached(draw(*shape), dtype)

    shapes = [(new, (new + cached, num_kv_heads, head_dim)) for new, cached in lengths]
    rows = [Row(new, vectors(*shape), vectors(*shape)) for new, shape in shapes]
    num_blocks = [math.ceil(row.context_len / block_size) for row in rows]
    pool = sum(num_blocks) + 2
    shuffled = rng.permutation(pool)
    tables = rng.integers(0, pool, (len(rows), max(num_blocks)))
    taken = 0
    for index, count in enumerate(num_blocks):
        tables[index, :count] = shuffled[taken : taken + count]
        taken += count
    shape = CacheShape(pool, one_group(LAYERS), block_size, num_kv_heads, head_dim, dtype)
    cache = ReferenceKernels().allocate_cache(shape, CPU)
    fill(cache, leftovers)
    slots: list[int] = []
    positions: list[int] = []
    for index, row in enumerate(rows):
        own = np.arange(row.context_len)
        blocks, offsets = torch.from_numpy(tables[index, own // block_size]), torch.from_numpy(own % block_size)
        old, new = slice(row.num_cached), slice(row.num_cached, None)
        for layer in range(LAYERS):
            for part, cached in enumerate((row.keys, row.values)):
                CachedVectors(cache).write(layer, part, blocks[old], offsets[old], cached[old])
        slots += (blocks * block_size + offsets)[new].tolist()
        positions += own[new].tolist()
    starts = np.cumsum([0] + [row.num_new for row in rows])
    batch = RaggedBatch(
        token_ids=torch.zeros(len(slots), dtype=torch.int64),
        positions=torch.tensor(positions),
        slots=torch.tensor([slots]),
        query_starts=torch.from_numpy(starts),
        context_lens=torch.tensor([row.context_len for row in rows]),
        tables=torch.arange(len(rows)),
        block_tables=torch.from_numpy(tables).unsqueeze(0),
    )
    return Scene(cache, batch, rows, draw(len(slots), num_kv_heads * group, head_dim))


def as_cached(vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a cache keeps of `[n, num_kv_heads, head_dim]`."""
    if dtype == FP8:
        return to_fp8(vectors).float()
    if dtype != torch.int8:
        return vectors
    values, scales = quantize_rows(vectors.flatten(0, 1))
    return (values * scales.unsqueeze(1)).view(vectors.shape)


def fill(cache: KVCache, leftovers: float) -> None:
    """Every slot of every block; where they are int8, their scales."""
    cached = CachedVectors(cache)
    if cached.scales is None:
        cached.values.copy_(torch.full(cached.values.shape, leftovers))
    else:
        cached.values.fill_(99)
        cached.scales.fill_(leftovers)


def attend(
    scene: Scene, *, layer: int = 1, scale: float = 0.5, kind: LayerKind = FULL, softcap: float | None = None
) -> torch.Tensor:
    """Write the new tokens and attend, as a model's layer does."""
    step = prepare(scene.batch, scene.cache)
    write_kv(step, layer, scene.new("keys"), scene.new("values"))
    return paged_attention(scene.query, step, layer, scale=scale, kind=kind, softcap=softcap)


def plan(scene: Scene, kind: LayerKind = FULL) -> list[Tile]:
    return plan_tiles(prepare(scene.batch, scene.cache), kind, 0, num_heads=scene.query.shape[1])


def attend_one_by_one(
    scene: Scene, *, scale: float = 0.5, kind: LayerKind = FULL, softcap: float | None = None
) -> np.ndarray:
    """For each token and head, in float64: softmax over the positions it may see, and the weighted sum of values."""
    out = []
    queries = iter(scene.query.double().numpy())
    for row in scene.rows:
        keys, values = row.keys.double().numpy(), row.values.double().numpy()
        for position in range(row.num_cached, row.context_len):
            query = next(queries)
            group = query.shape[0] // keys.shape[1]
            distance = kind.size - 1 if isinstance(kind, Window) else row.context_len
            oldest, newest = max(0, position - distance), position if kind.is_causal else position + distance
            for head in range(query.shape[0]):
                seen = slice(oldest, newest + 1), head // group
                scores = [float(np.dot(query[head], key)) * scale for key in keys[seen]]
                if softcap is not None:
                    scores = [softcap * math.tanh(score / softcap) for score in scores]
                weights = [math.exp(score - max(scores)) for score in scores]
                mean = sum(weight * value for weight, value in zip(weights, values[seen], strict=True)) / sum(weights)
                out.append(mean)
    return np.array(out).reshape(scene.query.shape)


def assert_same(actual: torch.Tensor, expected: np.ndarray, dtype: torch.dtype) -> None:
    assert actual.dtype == (torch.float32 if dtype.itemsize == 1 else dtype)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=tolerance, atol=tolerance)


ragged = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1, max_size=7)
decoding = st.lists(st.tuples(st.just(1), st.integers(0, 60)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.one_of(ragged, decoding),
    block_size=st.integers(1, 16),
    num_kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    head_dim=st.sampled_from([1, 4, 8]),
    dtype=st.sampled_from(list(TOLERANCE)),
    kind=st.one_of(st.builds(Full, st.booleans()), st.builds(Window, st.integers(1, 50), st.booleans())),
    softcap=st.one_of(st.none(), st.floats(0.5, 30)),
    scale=st.floats(0.05, 2),
    tile_bytes=st.sampled_from([200, 5000, 1 << 20]),
    seed=st.integers(0, 2**32),
)
def test_any_ragged_batch_equals_attention_token_by_token(
    lengths: list[tuple[int, int]],
    block_size: int,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    dtype: torch.dtype,
    kind: LayerKind,
    softcap: float | None,
    scale: float,
    tile_bytes: int,
    seed: int,
) -> None:
    scene = make_scene(
        lengths,
        block_size=block_size,
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=head_dim,
        dtype=dtype,
        seed=seed,
    )
    with mock.patch.multiple(reference_attention, GATHERED_BYTES=tile_bytes, SCORE_BYTES=tile_bytes):
        actual = attend(scene, scale=scale, kind=kind, softcap=softcap)
    assert_same(actual, attend_one_by_one(scene, scale=scale, kind=kind, softcap=softcap), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, FP8])
@pytest.mark.parametrize("leftovers", [math.nan, math.inf, -math.inf, 1e30])
def test_what_another_request_left_in_the_slots_changes_no_bit(dtype: torch.dtype, leftovers: float) -> None:
    lengths = [(1, 30), (1, 17), (5, 20), (13, 0)]
    clean = attend(make_scene(lengths, block_size=8, dtype=dtype, leftovers=0.0))
    poisoned = attend(make_scene(lengths, block_size=8, dtype=dtype, leftovers=leftovers))
    assert torch.equal(clean, poisoned)


def test_a_token_is_not_disturbed_by_what_comes_after_it_in_its_row() -> None:
    scene = make_scene([(6, 3)], block_size=4)
    expected = attend(scene)[:4]
    scene.rows[0].keys[-2:] = 7
    scene.rows[0].values[-2:] = 1e6
    assert torch.equal(attend(scene)[:4], expected)


def test_only_the_layer_asked_for_is_read_and_written() -> None:
    scene = make_scene([(2, 5), (1, 9)], block_size=4)
    other_layer = scene.cached.values[:, 0]
    other_layer.fill_(math.nan)
    assert not attend(scene, layer=1).isnan().any()
    assert other_layer.isnan().all()


def test_layers_of_one_step_may_differ_in_their_window() -> None:
    scene = make_scene([(4, 11), (1, 20)], block_size=4)
    step = prepare(scene.batch, scene.cache)
    kinds: list[LayerKind] = [Window(3), FULL]
    for layer, kind in enumerate(kinds):
        write_kv(step, layer, scene.new("keys"), scene.new("values"))
        actual = paged_attention(scene.query, step, layer, scale=0.5, kind=kind)
        assert_same(actual, attend_one_by_one(scene, kind=kind), torch.float64)


def test_a_window_leaves_older_blocks_ungathered() -> None:
    scene = make_scene([(1, 400), (3, 300)], block_size=4)
    tiles = plan(scene, Window(8))
    assert max(tile.num_keys for tile in tiles) <= 8 + 3 + 4


@pytest.mark.parametrize("longest", [60, 450, 4000])
def test_sixty_four_decoding_rows_are_attended_together_with_bounded_padding(longest: int) -> None:
    lengths = [(1, 10 + longest * row**3 // 63**3) for row in range(64)]
    scene = make_scene(lengths, block_size=16)
    tiles = plan(scene)
    gathered = sum(tile.num_rows * tile.num_keys for tile in tiles)
    assert len(tiles) <= 8
    assert gathered <= 2 * sum(row.context_len + 16 for row in scene.rows)


@pytest.mark.parametrize("block_size", [16, 256, 1024])
def test_a_long_prefill_is_cut_so_that_its_scores_stay_bounded(block_size: int) -> None:
    scene = make_scene([(300, 50)], block_size=block_size)
    with mock.patch.object(reference_attention, "SCORE_BYTES", 1 << 18):
        tiles = plan(scene)
        actual = attend(scene)
    assert max(tile.num_rows * tile.num_queries * tile.num_keys * 4 * 8 for tile in tiles) <= 1 << 18
    assert_same(actual, attend_one_by_one(scene), torch.float64)


def test_sixteen_bit_caches_are_summed_in_float32() -> None:
    """With 4,000 equal scores a sum of weights in bfloat16 would stop growing at 256."""
    scene = make_scene([(1, 3999)], block_size=16, num_kv_heads=1, group=1, dtype=torch.bfloat16)
    scene.rows[0].values.fill_(1)
    scene.cached.values[:, :, 1].fill_(1)
    assert attend(scene, scale=0.0).eq(1).all()


def test_an_int8_cache_keeps_each_vector_to_half_a_step_of_its_own_scale() -> None:
    """A head that is a thousand times smaller than its neighbour loses no more of itself."""
    scene = make_scene([(6, 9)], block_size=4, head_dim=8, dtype=torch.int8)
    new = torch.randn(6, 2, 8) * torch.tensor([1.0, 1e-3]).view(1, 2, 1)
    new[3, 1] = 0
    step = prepare(scene.batch, scene.cache)
    write_kv(step, 0, new, -new)
    for part, expected in enumerate((new, -new)):
        kept = scene.cached.read(0, part, step.slot_blocks[0], torch.float32)[torch.arange(6), step.slot_offsets[0]]
        half_a_step = expected.abs().amax(dim=-1, keepdim=True) / 127 / 2
        assert ((kept - expected).abs() <= half_a_step * 1.0001).all()
        assert kept[3, 1].eq(0).all()


def test_an_fp8_cache_keeps_numbers_to_a_sixteenth_and_its_largest_for_those_out_of_range() -> None:
    scene = make_scene([(6, 9)], block_size=4, head_dim=8, dtype=FP8)
    new = torch.randn(6, 2, 8) * torch.tensor([100.0, 0.1]).view(1, 2, 1)
    new[0, 0, :3] = torch.tensor([449.0, -1e6, torch.nan])
    step = prepare(scene.batch, scene.cache)
    write_kv(step, 0, new, -new)
    kept = scene.cached.read(0, 0, step.slot_blocks[0], torch.float32)[torch.arange(6), step.slot_offsets[0]]
    assert kept[0, 0, :2].tolist() == [448, -448]
    assert kept[0, 0, 2].isnan()
    expected = new.clamp(-448, 448)
    torch.testing.assert_close(kept, expected, rtol=1 / 16, atol=2.0**-10, equal_nan=True)
    assert scene.cache.shape.block_bytes * 2 == replace(scene.cache.shape, dtype=torch.float16).block_bytes


@pytest.mark.parametrize(("dtype", "mean"), [(torch.int8, 0.005), (FP8, 0.02)])
def test_attention_over_a_cache_of_8_bits_is_close_to_that_over_a_float_one(dtype: torch.dtype, mean: float) -> None:
    scene = make_scene([(1, 200), (40, 60), (7, 0)], block_size=16, head_dim=64, dtype=dtype)
    exact = make_scene([(1, 200), (40, 60), (7, 0)], block_size=16, head_dim=64, dtype=torch.float32)
    expected = attend_one_by_one(exact, scale=64**-0.5)
    difference = np.abs(attend(scene, scale=64**-0.5).numpy() - expected)
    assert np.abs(expected).mean() > 0.1
    assert difference.max() < 10 * mean
    assert difference.mean() < mean
