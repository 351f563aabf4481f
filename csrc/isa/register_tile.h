// The tile of sums that a micro kernel keeps in registers, [ROWS][VECTORS] of sixteen lanes each: how large it is and what
// is done to it. Products with weights and those of attention are made of these.
#pragma once

#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// As much as the registers hold: up to MAX_ROWS rows, each over MIN_HALVES vectors of outputs (halves of a weight's panel)
// or more. Few rows leave registers for more vectors, whose independent chains hide the latency of a multiply-add.
#if defined(__AVX512F__)
constexpr int MAX_ROWS = 12;  // 24 sums, 2 vectors of weights and an activation in 32 registers
constexpr int MIN_HALVES = 2;
constexpr int halves_for(int64_t rows) { return rows > 4 ? 2 : rows == 1 ? 8 : 4; }
#elif defined(__AVX2__)
constexpr int MAX_ROWS = 6;  // a vector is two registers: 12 sums, 2 of weights and an activation in 16
constexpr int MIN_HALVES = 1;
constexpr int halves_for(int64_t rows) { return rows > 2 ? 1 : rows == 1 ? 4 : 2; }
#else
constexpr int MAX_ROWS = 2;
constexpr int MIN_HALVES = 2;
constexpr int halves_for(int64_t) { return 2; }
#endif

template <int ROWS, int VECTORS>
OCTAVO_INLINE void clear(F32x16 (&sums)[ROWS][VECTORS]) {
  OCTAVO_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    OCTAVO_UNROLL
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = zero();
  }
}
template <int ROWS, int VECTORS>
OCTAVO_INLINE void clear(I32x16 (&sums)[ROWS][VECTORS]) {
  OCTAVO_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    OCTAVO_UNROLL
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = set1_i32(0);
  }
}

// sums[r][first + i] += vectors[i] * factor(r), for each row: what one input gives to the tile.
template <int ROWS, int VECTORS, int COUNT, class Factor>
OCTAVO_INLINE void multiply_add(F32x16 (&sums)[ROWS][VECTORS], int first, const F32x16 (&vectors)[COUNT], Factor factor) {
  OCTAVO_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    const F32x16 value = set1(factor(r));
    OCTAVO_UNROLL
    for (int i = 0; i < COUNT; ++i) {
      sums[r][first + i] = fma(vectors[i], value, sums[r][first + i]);
      pin(sums[r][first + i]);
    }
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
