// What the three kinds of lanes have in common: the compiler's orders, and the bits of floating-point numbers.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if !defined(OCTAVO_ISA)
#error "compile through avx2.cpp and its siblings, which define OCTAVO_ISA"
#endif

#define OCTAVO_INLINE inline __attribute__((always_inline))

// Before a loop over registers: its count is a constant of at most 16, and an index that stays a variable would keep the
// registers' array in memory.
#define OCTAVO_UNROLL _Pragma("GCC unroll 16")

namespace octavo {
namespace OCTAVO_ISA {

// float32: sign, 8 bits of exponent (2^n is stored as n + 127), 23 of mantissa.
constexpr int MANTISSA_BITS = 23;
constexpr int EXPONENT_BIAS = 127;
// bfloat16 is the upper half of a float32. Adding this, and one more where the half is odd, carries into it what rounds up,
// ties to even; NaN must not be rounded, as that could make it infinite.
constexpr int BF16_ROUNDING = 0x7fff;
constexpr int BF16_NAN = 0x7fc0;
// The upper half of a word: in a pair of bfloat16 the second one.
constexpr int BF16_UPPER = static_cast<int>(0xffff0000);

constexpr int64_t CACHE_LINE = 64;

// Brings a cache line into the second-level cache: more is fetched ahead than the first level holds.
OCTAVO_INLINE void prefetch(const uint8_t* p) {
  constexpr int FOR_READING = 0, SECOND_LEVEL = 2;
  __builtin_prefetch(p, FOR_READING, SECOND_LEVEL);
}

#if defined(__AVX2__)
// Of eight lanes: those at distance 4, then 2, then 1.
OCTAVO_INLINE float sum_of_eight(__m256 a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
OCTAVO_INLINE float max_of_eight(__m256 a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#endif

}  // namespace OCTAVO_ISA
}  // namespace octavo
