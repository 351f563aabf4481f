// What AMX's products have of a grouped weight whose groups are of whole steps: a span is a step of inputs. Numbers are staged
// in the nearest cache without INT8_OFFSET, so that all sums start at the same.
//
//   x        [rows][num_steps] StepActivations (product_input.h)
//   weights  a panel's stream of blocks (PackedWeight)
#pragma once

#include "amx_spans.h"
#include "product_grouped.h"

namespace octavo {
namespace OCTAVO_ISA {

// The numbers that codes stand for, without INT8_OFFSET.
struct SignedTable {
  uint8_t numbers[1 << NIBBLE_BITS];
  explicit SignedTable(const uint8_t* table) {
    for (int code = 0; code < 1 << NIBBLE_BITS; ++code) numbers[code] = static_cast<uint8_t>(table[code] - INT8_OFFSET);
  }
};
// A quad of a step, staged.
OCTAVO_INLINE Quads signed_quad(const FourBits& numbers, const uint8_t* step, int quad, int half) {
  return numbers.quad(step, quad, half);
}
OCTAVO_INLINE Quads signed_quad(const EightBits& numbers, const uint8_t* step, int quad, int half) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(INT8_OFFSET));
  return {_mm512_xor_si512(numbers.quad(step, quad, half).v, offset)};
}

template <class Numbers>
class GroupedSpans {
 public:
  explicit GroupedSpans(const Product& p)
      : p_(p), numbers_(SignedTable(p.weight->table).numbers), has_minimums_(p.weight->has_minimums),
        numbers_bytes_(p.weight->block_inputs() / STEP * Numbers::STEP_BYTES), block_bytes_(p.weight->block_bytes()) {}
  int64_t count() const { return p_.weight->num_steps(); }
  static TileLayout layout(int64_t rows) {
    TileLayout layout;
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      layout.set_sums(h, rows);
      layout.set_weights(WEIGHTS + h, QUADS_A_STEP);
    }
    layout.set_inputs(INPUTS, rows, QUADS_A_STEP);
    return layout;
  }
  void begin_panel(int64_t panel) {
    next_ = p_.weight->panel(panel);
    groups_ = next_ + numbers_bytes_;
  }

  OCTAVO_INLINE void load_weights(int64_t step) {
    Factors& factors = factors_[step % 2];
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      OCTAVO_UNROLL
      for (int quad = 0; quad < QUADS_A_STEP; ++quad) {
        _mm512_store_si512(staged_ + quad * PANEL_STRIDE + h * TILE_ROW_BYTES, signed_quad(numbers_, next_, quad, h).v);
      }
      store(factors.scales + h * LANES, of_half(groups_, 0, h));
      if (has_minimums_) store(factors.minimums + h * LANES, of_half(groups_, 1, h));
    }
    finish_stores();
    load_tile<WEIGHTS>(staged_, PANEL_STRIDE);
    load_tile<WEIGHTS + 1>(staged_ + TILE_ROW_BYTES, PANEL_STRIDE);
    next_ += Numbers::STEP_BYTES;
    if (next_ == groups_) {
      next_ += block_bytes_ - numbers_bytes_;
      groups_ = next_ + numbers_bytes_;
    }
  }
  OCTAVO_INLINE void multiply(TileInputs& x, int64_t row, int64_t step) const {
    constexpr int64_t VALUES_AT = sizeof(StepScales), STEP_BYTES = sizeof(StepActivations);
    x.load<INPUTS>(row, step * STEP_BYTES + VALUES_AT, QUADS_A_STEP);
    add_products_of_signed<0, INPUTS, WEIGHTS>();
    add_products_of_signed<1, INPUTS, WEIGHTS + 1>();
  }
  OCTAVO_INLINE void add(const SpanSums& sums, int64_t row, int64_t num_rows, int64_t step, RowTotals* totals) const {
    if (has_minimums_) {
      add_scaled<true>(sums, row, num_rows, step, totals);
    } else {
      add_scaled<false>(sums, row, num_rows, step, totals);
    }
  }

 private:
  static constexpr int INPUTS = 2, WEIGHTS = 3;

  template <bool HAS_MINIMUMS>
  OCTAVO_INLINE void add_scaled(const SpanSums& sums, int64_t row, int64_t num_rows, int64_t step, RowTotals* totals) const {
    const Factors& factors = factors_[step % 2];
    const I32x16 start = set1_i32(SUM_OFFSET_BITS);
    F32x16 scales[HALVES_A_PANEL], minimums[HALVES_A_PANEL];
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES_A_PANEL; ++h) {
      scales[h] = load(factors.scales + h * LANES);
      if constexpr (HAS_MINIMUMS) minimums[h] = load(factors.minimums + h * LANES);
    }
    const uint8_t* values = p_.values + step * static_cast<int64_t>(sizeof(StepActivations));
    const int64_t stride = p_.values_stride;
    const int64_t* rows = p_.rows;
    for (int64_t r = 0; r < num_rows; ++r) {
      const auto& own = *reinterpret_cast<const StepScales*>(values + (rows ? rows[row + r] : row + r) * stride);
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        float* at = totals[r] + h * LANES;
        F32x16 total = load(at);
        if constexpr (HAS_MINIMUMS) total = fma(minimums[h], set1(own.minus_sum), total);
        store(at, fma(scaled(sums_of(sums, r, h) + start, own), scales[h], total));
      }
    }
  }

  // A step's scales and minimums: those of two steps, as the sums of one wait while another is multiplied.
  struct Factors {
    float scales[PANEL], minimums[PANEL];
  };

  const Product& p_;
  const Numbers numbers_;
  const bool has_minimums_;
  const int64_t numbers_bytes_, block_bytes_;
  const uint8_t *next_ = nullptr, *groups_ = nullptr;  // the next step's numbers, and what their block has behind all numbers
  alignas(CACHE_LINE) Factors factors_[2];
  alignas(CACHE_LINE) uint8_t staged_[STEP * PANEL];
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
