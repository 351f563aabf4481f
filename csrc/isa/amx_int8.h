// Products of int8 activations by AMX: the integer sums of a group of inputs are made in tiles, then scaled and added to the
// totals group after group, each output as the kernels for few rows do it, bit for bit.
//
//   x        [rows][num_groups][GROUP] int8
//   weights  a panel's quads (PackedWeight)
//   totals   [rows][PANEL] float32, in the nearest cache
//
// Of a panel and a block of rows, groups go by outside and tiles of rows inside: a group's weights stay in tiles.
#pragma once

#include "amx_tiles.h"
#include "product_input.h"

namespace octavo {
namespace OCTAVO_ISA {

// Tiles of rows whose totals stay in the nearest cache.
constexpr int64_t TILES_A_BLOCK = 4;
constexpr int64_t ROWS_A_BLOCK = TILES_A_BLOCK * MOST_TILE_ROWS;
using TileSums = int32_t[MOST_TILE_ROWS][PANEL];
using RowTotals = float[PANEL];

// What a product with an int8 weight has for `multiply_in_tiles`: spans of inputs with integer sums of their own.
class Int8Spans {
 public:
  static constexpr int CHUNKS = 2;  // tiles that a span's inputs take
  static constexpr int64_t QUADS_A_CHUNK = GROUP / QUAD / CHUNKS;

  explicit Int8Spans(const Product& p)
      : p_(p), num_groups_(p.weight->num_groups()), quads_((p.weight->num_inputs + QUAD - 1) / QUAD) {}
  int64_t count() const { return num_groups_; }
  void begin_panel(int64_t panel) {
    weights_ = p_.weight->panel(panel);
    // A last group that is short is copied: what lies behind it may be no memory of ours. Activations are zero there.
    const int64_t left = quads_ - (num_groups_ - 1) * QUADS_A_GROUP;
    if (left == QUADS_A_GROUP) return;
    for (int64_t i = 0; i < left * PANEL_STRIDE; i += CACHE_LINE) {
      _mm512_store_si512(last_ + i, _mm512_loadu_si512(weights_ + (num_groups_ - 1) * GROUP_BYTES + i));
    }
  }
  OCTAVO_INLINE const uint8_t* weights(int64_t group) const {
    return (group + 1) * QUADS_A_GROUP > quads_ ? last_ : weights_ + group * GROUP_BYTES;
  }
  OCTAVO_INLINE int64_t offset(int64_t group) const { return group * GROUP; }

  // Adds a span's sums of some rows, which are the product's from `row` on.
  OCTAVO_INLINE void add(const TileSums& sums, int64_t row, int64_t num_rows, int64_t group, RowTotals* totals) const {
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t at = source_row(p_, row + r) * num_groups_ + group;
      const I32x16 start = set1_i32(p_.starts[at]);
      const F32x16 scale = set1(p_.scales[at]);
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        float* total = totals[r] + h * LANES;
        const I32x16 sum{_mm512_load_si512(sums[r] + h * LANES)};
        store(total, fma(to_float(sum + start), scale, load(total)));
      }
    }
  }

 private:
  static constexpr int64_t QUADS_A_GROUP = GROUP / QUAD;
  static constexpr int64_t GROUP_BYTES = QUADS_A_GROUP * PANEL_STRIDE;
  const Product& p_;
  int64_t num_groups_, quads_;
  const uint8_t* weights_ = nullptr;
  alignas(CACHE_LINE) uint8_t last_[GROUP_BYTES] = {};
};

// The tiles: sums of the panel's halves, then activations and weights by chunks.
template <int CHUNKS>
struct SpanTiles {
  static constexpr int X = HALVES_A_PANEL, WEIGHTS = X + CHUNKS;

  static OCTAVO_INLINE void load_weights(const uint8_t* weights, int64_t quads_a_chunk) {
    load_tile<WEIGHTS>(weights, PANEL_STRIDE);
    load_tile<WEIGHTS + 1>(weights + TILE_ROW_BYTES, PANEL_STRIDE);
    if constexpr (CHUNKS == 2) {
      weights += quads_a_chunk * PANEL_STRIDE;
      load_tile<WEIGHTS + 2>(weights, PANEL_STRIDE);
      load_tile<WEIGHTS + 3>(weights + TILE_ROW_BYTES, PANEL_STRIDE);
    }
  }
  static OCTAVO_INLINE void multiply(TileInputs<TILES_A_BLOCK>& x, int64_t tile, int64_t offset, int64_t quads_a_chunk,
                                     TileSums& sums) {
    const int64_t bytes = quads_a_chunk * QUAD;
    clear_tile<0>();
    clear_tile<1>();
    x.template load<X>(tile, offset, bytes);
    add_int8_products<0, X, WEIGHTS>();
    add_int8_products<1, X, WEIGHTS + 1>();
    if constexpr (CHUNKS == 2) {
      x.template load<X + 1>(tile, offset + bytes, bytes);
      add_int8_products<0, X + 1, WEIGHTS + 2>();
      add_int8_products<1, X + 1, WEIGHTS + 3>();
    }
    store_tile<0>(sums, sizeof sums[0]);
    store_tile<1>(&sums[0][LANES], sizeof sums[0]);
  }
};

template <class Spans>
void multiply_in_tiles(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                       int64_t panel_next) {
  using Tiles = SpanTiles<Spans::CHUNKS>;
  const PackedWeight& weight = *p.weight;
  const TileCut cut(row_end - row_begin);
  const TileSizes sizes(HALVES_A_PANEL, Spans::CHUNKS, cut.rows_a_tile, Spans::QUADS_A_CHUNK);
  Spans spans(p);
  // Every product of tiles fetches its share of the panel that comes next.
  const int64_t num_fetches = spans.count() * cut.num_tiles * CACHE_LINE;
  const int64_t lines_a_fetch = (weight.panel_bytes + num_fetches - 1) / num_fetches;
  alignas(CACHE_LINE) float totals[ROWS_A_BLOCK][PANEL];
  alignas(CACHE_LINE) TileSums sums[2];
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* next = weight.panel(panel + 1 < panel_end ? panel + 1 : panel_next);
    spans.begin_panel(panel);
    for (int64_t row = row_begin; row < row_end; row += TILES_A_BLOCK * cut.rows_a_tile) {
      const int64_t block_end = row + TILES_A_BLOCK * cut.rows_a_tile < row_end ? row + TILES_A_BLOCK * cut.rows_a_tile : row_end;
      const int64_t num_tiles = (block_end - row + cut.rows_a_tile - 1) / cut.rows_a_tile;
      TileInputs<TILES_A_BLOCK> x(p, row, block_end, num_tiles, cut.rows_a_tile);
      for (int64_t r = 0; r < block_end - row; ++r) {
        store(totals[r], zero());
        store(totals[r] + LANES, zero());
      }
      // A tile's sums are added while the next one's are made.
      int64_t waiting_tile = 0, waiting_span = -1, turn = 0;
      const auto add_waiting = [&] {
        if (waiting_span < 0) return;
        const int64_t first = waiting_tile * cut.rows_a_tile, left = block_end - row - first;
        spans.add(sums[turn ^ 1], row + first, left < cut.rows_a_tile ? left : cut.rows_a_tile, waiting_span, totals + first);
      };
      for (int64_t span = 0; span < spans.count(); ++span) {
        Tiles::load_weights(spans.weights(span), Spans::QUADS_A_CHUNK);
        for (int64_t tile = 0; tile < num_tiles; ++tile) {
          for (int64_t i = 0; i < lines_a_fetch; ++i, next += CACHE_LINE) prefetch(next);
          Tiles::multiply(x, tile, spans.offset(span), Spans::QUADS_A_CHUNK, sums[turn]);
          add_waiting();
          waiting_tile = tile, waiting_span = span, turn ^= 1;
        }
      }
      add_waiting();
      for (int64_t r = 0; r < block_end - row; ++r) {
        OCTAVO_UNROLL
        for (int h = 0; h < HALVES_A_PANEL; ++h) {
          const int64_t half = panel * HALVES_A_PANEL + h;
          store_half(p, row + r, half, load(totals[r] + h * LANES) * load(weight.scales + half * LANES));
        }
      }
    }
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
