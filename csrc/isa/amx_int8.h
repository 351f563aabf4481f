// What AMX's products have of an int8 weight: a span is a group of activations.
//
//   x        [rows][num_groups][GROUP] int8
//   weights  a panel's quads (PackedWeight)
#pragma once

#include "amx_spans.h"

namespace octavo {
namespace OCTAVO_ISA {

class Int8Spans {
 public:
  explicit Int8Spans(const Product& p)
      : p_(p), num_groups_(p.weight->num_groups()), num_quads_((p.weight->num_inputs + QUAD - 1) / QUAD) {}
  int64_t count() const { return num_groups_; }
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
  void begin_panel(int64_t panel) { panel_ = p_.weight->panel(panel); }

  OCTAVO_INLINE void load_weights(int64_t group) {
    const uint8_t* weights = panel_ + group * GROUP_BYTES;
    if ((group + 1) * QUADS_A_GROUP > num_quads_) {
      copy_words(weights, num_quads_ - group * QUADS_A_GROUP, last_);
      weights = last_;
    }
    const uint8_t* longer = weights + long_at(group) * PANEL_STRIDE;
    const uint8_t* shorter = weights + short_at(group) * PANEL_STRIDE;
    load_tile<LONG_WEIGHTS>(longer, PANEL_STRIDE);
    load_tile<LONG_WEIGHTS + 1>(longer + TILE_ROW_BYTES, PANEL_STRIDE);
    load_tile<SHORT_WEIGHTS>(shorter, PANEL_STRIDE);
    load_tile<SHORT_WEIGHTS + 1>(shorter + TILE_ROW_BYTES, PANEL_STRIDE);
  }
  OCTAVO_INLINE void multiply(TileInputs& x, int64_t row, int64_t group) const {
    x.load<LONG_INPUTS>(row, group * GROUP + long_at(group) * QUAD, LONG);
    add_products_of_unsigned<0, LONG_INPUTS, LONG_WEIGHTS>();
    add_products_of_unsigned<1, LONG_INPUTS, LONG_WEIGHTS + 1>();
    x.load<SHORT_INPUTS>(row, group * GROUP + short_at(group) * QUAD, SHORT);
    add_products_of_unsigned<0, SHORT_INPUTS, SHORT_WEIGHTS>();
    add_products_of_unsigned<1, SHORT_INPUTS, SHORT_WEIGHTS + 1>();
  }
  OCTAVO_INLINE void add(const SpanSums& sums, int64_t row, int64_t num_rows, int64_t group, RowTotals* totals) const {
    const float* scales = p_.scales + group;
    const int32_t* starts = p_.starts + group;
    const int64_t* rows = p_.rows;
    const int64_t num_groups = num_groups_;
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t at = (rows ? rows[row + r] : row + r) * num_groups;
      const I32x16 start = set1_i32(starts[at]);
      const F32x16 scale = set1(scales[at]);
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        float* total = totals[r] + h * LANES;
        store(total, fma(to_float(sums_of(sums, r, h) + start), scale, load(total)));
      }
    }
  }

 private:
  static constexpr int64_t QUADS_A_GROUP = GROUP / QUAD;
  static constexpr int64_t GROUP_BYTES = QUADS_A_GROUP * PANEL_STRIDE;
  // Quads of the two pieces of a group. The short one is first in every other group: so none crosses a cache line.
  static constexpr int64_t LONG = 16, SHORT = QUADS_A_GROUP - LONG;
  static constexpr int LONG_INPUTS = 2, SHORT_INPUTS = 3, LONG_WEIGHTS = 4, SHORT_WEIGHTS = 6;
  static OCTAVO_INLINE int64_t long_at(int64_t group) { return group % 2 * SHORT; }
  static OCTAVO_INLINE int64_t short_at(int64_t group) { return (1 - group % 2) * LONG; }

  const Product& p_;
  const int64_t num_groups_, num_quads_;
  const uint8_t* panel_ = nullptr;
  alignas(CACHE_LINE) uint8_t last_[GROUP_BYTES] = {};
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
