// A product of small float32 matrices, for the tiles of attention.
//
//   c [rows, columns] = a [rows, depth] * b [depth, columns]
//
// b lies in panels of LANES columns, each [depth][LANES] and so in the nearest cache while the rows go by; `panel` is the
// distance of two. Each element of c is one chain of multiply-adds in the order of the depth.
#pragma once

#include "register_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

template <int ROWS, int PANELS>
OCTAVO_INLINE void gemm_tile(const float* a, int64_t lda, const float* b, int64_t panel, int64_t depth, float* c,
                             int64_t ldc) {
  F32x16 sums[ROWS][PANELS];
  clear(sums);
  for (int64_t k = 0; k < depth; ++k) {
    F32x16 row[PANELS];
    OCTAVO_UNROLL
    for (int n = 0; n < PANELS; ++n) row[n] = load(b + n * panel + k * LANES);
    multiply_add(sums, 0, row, [&](int r) { return a[r * lda + k]; });
  }
  OCTAVO_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    OCTAVO_UNROLL
    for (int n = 0; n < PANELS; ++n) store(c + r * ldc + n * LANES, sums[r][n]);
  }
}

// All rows of some panels: as many full tiles as there are, then tiles of a third of their rows, then single rows.
template <int PANELS>
void gemm_panels(const float* a, int64_t lda, int64_t rows, const float* b, int64_t panel, int64_t depth, float* c,
                 int64_t ldc) {
  constexpr int SOME = MAX_ROWS / 3 > 1 ? MAX_ROWS / 3 : 1;
  int64_t m = 0;
  for (; m + MAX_ROWS <= rows; m += MAX_ROWS) {
    gemm_tile<MAX_ROWS, PANELS>(a + m * lda, lda, b, panel, depth, c + m * ldc, ldc);
  }
  for (; m + SOME <= rows; m += SOME) gemm_tile<SOME, PANELS>(a + m * lda, lda, b, panel, depth, c + m * ldc, ldc);
  for (; m < rows; ++m) gemm_tile<1, PANELS>(a + m * lda, lda, b, panel, depth, c + m * ldc, ldc);
}

// `columns` is a multiple of LANES.
inline void gemm(const float* a, int64_t lda, int64_t rows, const float* b, int64_t panel, int64_t depth, float* c,
                 int64_t ldc, int64_t columns) {
  int64_t n = 0;
  for (; n + MIN_HALVES * LANES <= columns; n += MIN_HALVES * LANES) {
    gemm_panels<MIN_HALVES>(a, lda, rows, b + n / LANES * panel, panel, depth, c + n, ldc);
  }
  if (n < columns) gemm_panels<1>(a, lda, rows, b + n / LANES * panel, panel, depth, c + n, ldc);
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
