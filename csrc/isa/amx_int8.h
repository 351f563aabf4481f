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

using TileSums = int32_t[MOST_TILE_ROWS][PANEL];

// What a product with an int8 weight has for `multiply_in_tiles`: spans of inputs with integer sums of their own.
class Int8Spans {
 public:
  explicit Int8Spans(const Product& p)
      : p_(p), num_groups_(p.weight->num_groups()), quads_((p.weight->num_inputs + QUAD - 1) / QUAD) {}
  int64_t count() const { return num_groups_; }
  void begin_panel(int64_t panel) {
    weights_ = p_.weight->panel(panel);
    copy_last_weights(weights_, num_groups_ - 1, quads_ - (num_groups_ - 1) * QUADS_A_GROUP, last_);
  }
  // Tiles: the sums of a panel's halves, then inputs and weights.
  static TileLayout layout(int64_t rows) {
    TileLayout layout;
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      layout.set_sums(h, rows);
      layout.set_weights(LONG_WEIGHTS + h, LONG);
      layout.set_weights(SHORT_WEIGHTS + h, SHORT);
    }
    layout.set_inputs(LONG_INPUTS, rows, LONG);
    layout.set_inputs(SHORT_INPUTS, rows, SHORT);
    return layout;
  }
  OCTAVO_INLINE void load_weights(int64_t group) const {
    const uint8_t* first = (group + 1) * QUADS_A_GROUP > quads_ ? last_ : weights_ + group * GROUP_BYTES;
    const uint8_t* longer = first + long_at(group) * PANEL_STRIDE;
    const uint8_t* shorter = first + short_at(group) * PANEL_STRIDE;
    load_tile<LONG_WEIGHTS>(longer, PANEL_STRIDE);
    load_tile<LONG_WEIGHTS + 1>(longer + TILE_ROW_BYTES, PANEL_STRIDE);
    load_tile<SHORT_WEIGHTS>(shorter, PANEL_STRIDE);
    load_tile<SHORT_WEIGHTS + 1>(shorter + TILE_ROW_BYTES, PANEL_STRIDE);
  }
  OCTAVO_INLINE void multiply(TileInputs& x, int64_t row, int64_t group, TileSums& sums) const {
    clear_tile<0>();
    clear_tile<1>();
    x.template load<LONG_INPUTS>(row, group * GROUP + long_at(group) * QUAD, LONG);
    add_int8_products<0, LONG_INPUTS, LONG_WEIGHTS>();
    add_int8_products<1, LONG_INPUTS, LONG_WEIGHTS + 1>();
    x.template load<SHORT_INPUTS>(row, group * GROUP + short_at(group) * QUAD, SHORT);
    add_int8_products<0, SHORT_INPUTS, SHORT_WEIGHTS>();
    add_int8_products<1, SHORT_INPUTS, SHORT_WEIGHTS + 1>();
    store_tile<0>(sums, sizeof sums[0]);
    store_tile<1>(&sums[0][LANES], sizeof sums[0]);
  }
  // Adds a span's sums of some rows, which are the product's from `row` on.
  OCTAVO_INLINE void add(const TileSums& sums, int64_t row, int64_t num_rows, int64_t group, RowTotals* totals) const {
    const int32_t* starts = p_.starts + group;
    const float* scales = p_.scales + group;
    const int64_t* rows = p_.rows;
    const int64_t num_groups = num_groups_;
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t at = (rows ? rows[row + r] : row + r) * num_groups;
      const I32x16 start = set1_i32(starts[at]);
      const F32x16 scale = set1(scales[at]);
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
  // Quads of the two pieces of a group. The short one is first in every other group: so none crosses a cache line.
  static constexpr int64_t LONG = 16, SHORT = QUADS_A_GROUP - LONG;
  static constexpr int LONG_INPUTS = 2, SHORT_INPUTS = 3, LONG_WEIGHTS = 4, SHORT_WEIGHTS = 6;
  static OCTAVO_INLINE int64_t long_at(int64_t group) { return group % 2 * SHORT; }
  static OCTAVO_INLINE int64_t short_at(int64_t group) { return (1 - group % 2) * LONG; }
  static constexpr int64_t GROUP_BYTES = QUADS_A_GROUP * PANEL_STRIDE;
  const Product& p_;
  int64_t num_groups_, quads_;
  const uint8_t* weights_ = nullptr;
  alignas(CACHE_LINE) uint8_t last_[GROUP_BYTES] = {};
};

OCTAVO_INLINE void clear(RowTotals* totals, int64_t num_rows) {
  for (int64_t r = 0; r < num_rows; ++r) {
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES_A_PANEL; ++h) store(totals[r] + h * LANES, zero());
  }
}

// The totals times the weights' scales.
OCTAVO_INLINE void store_totals(const Product& p, int64_t row, int64_t num_rows, int64_t panel, const RowTotals* totals) {
  F32x16 scales[HALVES_A_PANEL];
  OCTAVO_UNROLL
  for (int h = 0; h < HALVES_A_PANEL; ++h) scales[h] = load(p.weight->scales + panel * PANEL + h * LANES);
  for (int64_t r = 0; r < num_rows; ++r) {
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      store_half(p, row + r, panel * HALVES_A_PANEL + h, load(totals[r] + h * LANES) * scales[h]);
    }
  }
}

template <class Spans>
void multiply_in_tiles(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                       int64_t panel_next) {
  const PackedWeight& weight = *p.weight;
  const TileCut cut(row_end - row_begin);
  const TilesInUse tiles(Spans::layout(cut.rows_a_tile));
  Spans spans(p);
  // Every product of tiles fetches its share of the panel that comes next.
  const int64_t num_fetches = spans.count() * cut.num_tiles * CACHE_LINE;
  const int64_t lines_a_fetch = (weight.panel_bytes + num_fetches - 1) / num_fetches;
  TileInputs x(p, row_begin, row_end, cut.rows_a_tile);
  alignas(CACHE_LINE) float totals[ROWS_A_BLOCK][PANEL];
  alignas(CACHE_LINE) TileSums sums[2];
  const int64_t rows_a_block = TILES_A_BLOCK * cut.rows_a_tile;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    const uint8_t* next = weight.panel(panel + 1 < panel_end ? panel + 1 : panel_next);
    spans.begin_panel(panel);
    for (int64_t block = row_begin; block < row_end; block += rows_a_block) {
      const int64_t block_end = block + rows_a_block < row_end ? block + rows_a_block : row_end;
      clear(totals, block_end - block);
      // A tile's sums are added while the next one's are made.
      int64_t waiting_row = block, waiting_span = -1, turn = 0;
      const auto add_waiting = [&] {
        if (waiting_span < 0) return;
        const int64_t left = block_end - waiting_row, num_rows = left < cut.rows_a_tile ? left : cut.rows_a_tile;
        spans.add(sums[turn ^ 1], waiting_row, num_rows, waiting_span, totals + (waiting_row - block));
      };
      for (int64_t span = 0; span < spans.count(); ++span) {
        spans.load_weights(span);
        for (int64_t row = block; row < block_end; row += cut.rows_a_tile) {
          for (int64_t i = 0; i < lines_a_fetch; ++i, next += CACHE_LINE) prefetch(next);
          spans.multiply(x, row, span, sums[turn]);
          add_waiting();
          waiting_row = row, waiting_span = span, turn ^= 1;
        }
      }
      add_waiting();
      store_totals(p, block, block_end - block, panel, totals);
    }
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
