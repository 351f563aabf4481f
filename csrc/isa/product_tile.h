// What the products of all weight types share: a tile of outputs, ROWS rows by HALVES halves of panels, sixteen outputs each.
//
//   x        [ROWS] pointers to rows of activations, taken in order or by a list
//   weights  [HALVES] halves of panels, [num_iterations][LANES outputs][INPUTS] in each
//   sums     [ROWS][HALVES] vectors of sixteen outputs, in registers
//
// Each kind of tile is a struct with INPUTS, what it multiplies in an iteration, and `run<ROWS, HALVES>`.
#pragma once

#include "../kernels.h"
#include "register_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int HALVES_A_PANEL = PANEL / LANES;

// Row `row` of a product's activations in its buffers.
OCTAVO_INLINE int64_t source_row(const Product& p, int64_t row) { return p.rows ? p.rows[row] : row; }

// The rows of activations that a tile multiplies, from `row` on; `stride` in elements of T.
template <class T, int ROWS>
struct TileRows {
  const T* x[ROWS];
  OCTAVO_INLINE TileRows(const Product& p, int64_t row, const T* first, int64_t stride) {
    OCTAVO_UNROLL
    for (int r = 0; r < ROWS; ++r) x[r] = first + source_row(p, row + r) * stride;
  }
  OCTAVO_INLINE const T* operator[](int r) const { return x[r]; }
};

// The weights that a tile multiplies, from the half of a panel `half` on.
template <int HALVES>
struct TileWeights {
  static constexpr int NUM_PANELS = (HALVES + HALVES_A_PANEL - 1) / HALVES_A_PANEL;
  const uint8_t* panels[NUM_PANELS];

  // `half_bytes`: what a half has for an iteration. A tile of one half may begin in the middle of a panel.
  OCTAVO_INLINE TileWeights(const PackedWeight& weight, int64_t half, int64_t half_bytes) {
    OCTAVO_UNROLL
    for (int n = 0; n < NUM_PANELS; ++n) {
      panels[n] = weight.panel(half / HALVES_A_PANEL + n) + (HALVES == 1 ? half % HALVES_A_PANEL * half_bytes : 0);
    }
  }
  // The half's weights of one iteration.
  OCTAVO_INLINE const uint8_t* at(int half, int64_t iteration, int64_t half_bytes) const {
    return panels[half / HALVES_A_PANEL] + (iteration * HALVES_A_PANEL + half % HALVES_A_PANEL) * half_bytes;
  }
};

// The weights that come next, fetched while others are multiplied: processors fetch ahead within a page only. All tiles
// that go over the same outputs together fetch the next ones once.
struct NextWeights {
  const uint8_t* from;
  int64_t step;  // bytes an iteration, a cache line for each of the tile's halves at the most
  template <int HALVES>
  OCTAVO_INLINE void fetch(int64_t iteration) const {
    OCTAVO_UNROLL
    for (int line = 0; line < HALVES; ++line) prefetch(from + iteration * step + line * CACHE_LINE);
  }
};

// Sixteen outputs of a row, with their bias; those past the last one are left out.
OCTAVO_INLINE void store_half(const Product& p, int64_t row, int64_t half, F32x16 values) {
  const int64_t output = half * LANES, left = p.weight->num_outputs - output;
  float* out = p.out + row * p.out_stride + output;
  if (left >= LANES) {
    if (p.bias) values = values + load(p.bias + output);
    store(out, values);
  } else if (left > 0) {
    const int some = static_cast<int>(left);
    if (p.bias) values = values + load_first(p.bias + output, some);
    store_first(out, values, some);
  }
}

template <int ROWS, int HALVES>
OCTAVO_INLINE void store_outputs(const Product& p, int64_t row, int64_t first_half, const F32x16 (&sums)[ROWS][HALVES]) {
  OCTAVO_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES; ++h) store_half(p, row + r, first_half + h, sums[r][h]);
  }
}

// Halves whose weights are in registers together, while all rows are multiplied by them.
constexpr int halves_at_once(int halves) { return halves < 2 ? 1 : 2; }

}  // namespace OCTAVO_ISA
}  // namespace octavo
