// Products with float32 and float16 weights: an input an iteration, its weights widened to float32.
//
//   x        [ROWS][num_inputs] float32
//   weights  [HALVES][num_inputs][LANES] Element
#pragma once

#include "product_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

template <class Element>
struct FloatTile {
  using Stored = typename Element::Stored;
  static constexpr int64_t INPUTS = 1;
  static constexpr int64_t HALF_BYTES = LANES * sizeof(Stored);

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, NextWeights next) {
    constexpr int AT_ONCE = halves_at_once(HALVES);
    const TileRows<float, ROWS> x(p, row, p.x, p.x_stride);
    const TileWeights<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    F32x16 sums[ROWS][HALVES];
    clear(sums);
    const int64_t num_inputs = p.weight->num_inputs;
    for (int64_t k = 0; k < num_inputs; ++k) {
      next.fetch<HALVES>(k);
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; h += AT_ONCE) {
        F32x16 wide[AT_ONCE];
        OCTAVO_UNROLL
        for (int i = 0; i < AT_ONCE; ++i) {
          wide[i] = Element::load16(reinterpret_cast<const Stored*>(weights.at(h + i, k, HALF_BYTES)));
        }
        multiply_add(sums, h, wide, [&](int r) { return x[r][k]; });
      }
    }
    store_outputs(p, row, first_half, sums);
  }
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
