// Products with bfloat16 weights: a pair of inputs an iteration, by the processor's dot product of pairs where it has one,
// else widened to float32, first the pair's first inputs, then its second ones.
//
//   x        [ROWS][num_inputs] float32; for the dot product [ROWS][num_pairs][PAIR] bfloat16
//   weights  [HALVES][num_pairs][LANES][PAIR] bfloat16
#pragma once

#include "product_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

struct BFloat16Tile {
  static constexpr int64_t INPUTS = PAIR;
  static constexpr int64_t PAIR_BYTES = PAIR * sizeof(uint16_t);
  static constexpr int64_t HALF_BYTES = LANES * PAIR_BYTES;

#if defined(__AVX512BF16__)

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, NextWeights next) {
    const TileRows<uint8_t, ROWS> x(p, row, p.values, p.values_stride);
    const TileWeights<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    F32x16 sums[ROWS][HALVES];
    clear(sums);
    const int64_t num_pairs = (p.weight->num_inputs + PAIR - 1) / PAIR;
    for (int64_t k = 0; k < num_pairs; ++k) {
      next.fetch<HALVES>(k);
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; h += 2) {
        const auto low = (__m512bh)_mm512_loadu_si512(weights.at(h, k, HALF_BYTES));
        const auto high = (__m512bh)_mm512_loadu_si512(weights.at(h + 1, k, HALF_BYTES));
        OCTAVO_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const auto pair = (__m512bh)_mm512_set1_epi32(word_at(x[r] + k * PAIR_BYTES));
          sums[r][h] = {_mm512_dpbf16_ps(sums[r][h].v, low, pair)};
          sums[r][h + 1] = {_mm512_dpbf16_ps(sums[r][h + 1].v, high, pair)};
        }
      }
    }
    store_outputs(p, row, first_half, sums);
  }

#else

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, NextWeights next) {
    const TileRows<float, ROWS> x(p, row, p.x, p.x_stride);
    const TileWeights<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    F32x16 sums[ROWS][HALVES];
    clear(sums);
    const int64_t num_inputs = p.weight->num_inputs;
    int64_t k = 0;
    for (; k + 1 < num_inputs; k += PAIR) {
      next.fetch<HALVES>(k / PAIR);
      add_pair<true, ROWS, HALVES>(weights, x, k, sums);
    }
    if (k < num_inputs) add_pair<false, ROWS, HALVES>(weights, x, k, sums);
    store_outputs(p, row, first_half, sums);
  }

 private:
  // Adds to the sums what inputs k and, where there is one, k + 1 give.
  template <bool IS_WHOLE, int ROWS, int HALVES>
  static OCTAVO_INLINE void add_pair(const TileWeights<HALVES>& weights, const TileRows<float, ROWS>& x, int64_t k,
                                     F32x16 (&sums)[ROWS][HALVES]) {
    constexpr int AT_ONCE = halves_at_once(HALVES);
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES; h += AT_ONCE) {
      F32x16 wide[AT_ONCE];
      OCTAVO_UNROLL
      for (int i = 0; i < AT_ONCE; ++i) wide[i] = load_bf16_evens(weights.at(h + i, k / PAIR, HALF_BYTES));
      multiply_add(sums, h, wide, [&](int r) { return x[r][k]; });
      if constexpr (!IS_WHOLE) continue;
      OCTAVO_UNROLL
      for (int i = 0; i < AT_ONCE; ++i) wide[i] = load_bf16_odds(weights.at(h + i, k / PAIR, HALF_BYTES));
      multiply_add(sums, h, wide, [&](int r) { return x[r][k + 1]; });
    }
  }

#endif
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
