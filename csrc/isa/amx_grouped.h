// Products with grouped weights by AMX: a span of inputs, which is a step or half of one, has integer sums of its own, that are
// scaled and added up as the kernels for few rows do it, bit for bit.
//
//   x        [rows][num_steps] StepActivations (product_input.h)
//   weights  a panel's stream of blocks (PackedWeight); numbers of 4 bits are unpacked for all rows of a block
#pragma once

#include "amx_int8.h"
#include "product_grouped.h"

namespace octavo {
namespace OCTAVO_ISA {

// PARTS: spans that a step is of.
template <class Numbers, int PARTS>
class GroupedSpans {
 public:
  explicit GroupedSpans(const Product& p) : p_(p), numbers_(p.weight->table) {
    const PackedWeight& weight = *p.weight;
    steps_a_block_ = weight.block_inputs() / STEP;
    block_bytes_ = weight.block_bytes();
    has_minimums_ = weight.has_minimums;
  }
  int64_t count() const { return p_.weight->num_steps() * PARTS; }
  static TileLayout layout(int64_t rows) {
    TileLayout layout;
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      layout.set_sums(h, rows);
      layout.set_weights(WEIGHTS + h, QUADS_A_PART);
    }
    layout.set_inputs(INPUTS, rows, QUADS_A_PART);
    return layout;
  }
  void begin_panel(int64_t panel) { panel_ = p_.weight->panel(panel); }

  OCTAVO_INLINE void load_weights(int64_t span) {
    const int64_t step = span / PARTS, place = step % steps_a_block_;
    const int part = static_cast<int>(span % PARTS);
    const uint8_t* block = panel_ + step / steps_a_block_ * block_bytes_;
    const uint8_t* numbers = block + place * Numbers::STEP_BYTES;
    if constexpr (Numbers::STEP_BYTES < STEP * PANEL) {
      if (part == 0) unpack(numbers);
      numbers = unpacked_;
    }
    numbers += part * QUADS_A_PART * PANEL_STRIDE;
    load_tile<WEIGHTS>(numbers, PANEL_STRIDE);
    load_tile<WEIGHTS + 1>(numbers + TILE_ROW_BYTES, PANEL_STRIDE);
  }
  OCTAVO_INLINE void multiply(TileInputs& x, int64_t row, int64_t span, TileSums& sums) const {
    clear_tile<0>();
    clear_tile<1>();
    x.load<INPUTS>(row, span / PARTS * STEP_ACTIVATIONS + VALUES_AT + span % PARTS * HALF_STEP, QUADS_A_PART);
    add_int8_products<0, INPUTS, WEIGHTS>();
    add_int8_products<1, INPUTS, WEIGHTS + 1>();
    store_tile<0>(sums, sizeof sums[0]);
    store_tile<1>(&sums[0][LANES], sizeof sums[0]);
  }
  OCTAVO_INLINE void add(const TileSums& sums, int64_t row, int64_t num_rows, int64_t span, RowTotals* totals) const {
    if (has_minimums_) {
      add_scaled<true>(sums, row, num_rows, span, totals);
    } else {
      add_scaled<false>(sums, row, num_rows, span, totals);
    }
  }

 private:
  static constexpr int INPUTS = 2, WEIGHTS = 3;
  static constexpr int64_t QUADS_A_PART = QUADS_A_STEP / PARTS;
  static constexpr int64_t STEP_ACTIVATIONS = sizeof(StepActivations), VALUES_AT = sizeof(StepScales);

  OCTAVO_INLINE void unpack(const uint8_t* numbers) {
    OCTAVO_UNROLL
    for (int quad = 0; quad < QUADS_A_STEP; ++quad) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        _mm512_store_si512(unpacked_ + quad * PANEL_STRIDE + h * TILE_ROW_BYTES, numbers_.quad(numbers, quad, h).v);
      }
    }
  }

  template <bool HAS_MINIMUMS>
  OCTAVO_INLINE void add_scaled(const TileSums& sums, int64_t row, int64_t num_rows, int64_t span, RowTotals* totals) const {
    const int64_t step = span / PARTS;
    const int part = static_cast<int>(span % PARTS);
    const uint8_t* scales = panel_ + step / steps_a_block_ * block_bytes_ + steps_a_block_ * Numbers::STEP_BYTES;
    F32x16 scale[HALVES_A_PANEL], minimum[HALVES_A_PANEL];
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      scale[h] = of_half(scales, part, h);
      if constexpr (HAS_MINIMUMS) minimum[h] = of_half(scales, PARTS + part, h);
    }
    const uint8_t* values = p_.values + step * STEP_ACTIVATIONS;
    const int64_t stride = p_.values_stride;
    const int64_t* rows = p_.rows;
    for (int64_t r = 0; r < num_rows; ++r) {
      const auto& own = *reinterpret_cast<const StepScales*>(values + (rows ? rows[row + r] : row + r) * stride);
      const I32x16 start = set1_i32(PARTS == 1 ? own.start : own.half_starts[part]);
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        float* total = totals[r] + h * LANES;
        F32x16 before = load(total);
        if constexpr (HAS_MINIMUMS) {
          before = fma(minimum[h], set1(PARTS == 1 ? own.minus_sum : own.minus_half_sums[part]), before);
        }
        const I32x16 sum{_mm512_load_si512(sums[r] + h * LANES)};
        store(total, fma(scaled(sum + start, own), scale[h], before));
      }
    }
  }

  const Product& p_;
  const Numbers numbers_;
  int64_t steps_a_block_, block_bytes_;
  bool has_minimums_;
  const uint8_t* panel_ = nullptr;
  alignas(CACHE_LINE) uint8_t unpacked_[STEP * PANEL];
};

// By the groups of a step, less one.
inline ProductFunction grouped_in_tiles(const PackedWeight& weight) {
  static constexpr ProductFunction four_bits[] = {multiply_in_tiles<GroupedSpans<FourBits, 1>>,
                                                  multiply_in_tiles<GroupedSpans<FourBits, 2>>};
  static constexpr ProductFunction eight_bits[] = {multiply_in_tiles<GroupedSpans<EightBits, 1>>,
                                                   multiply_in_tiles<GroupedSpans<EightBits, 2>>};
  return (weight.bits == 4 ? four_bits : eight_bits)[weight.groups_a_block() - 1];
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
