// What the three kinds of lanes have in common: the compiler's orders, and the bits of floating-point numbers.
#pragma once

#include <cstdint>
#include <cstring>

#include "../float16.h"
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

// bfloat16 is the upper half of a float32. Adding this, and one more where the half is odd, carries into it what rounds up,
// ties to even; NaN must not be rounded, as that could make it infinite.
constexpr int BF16_ROUNDING = 0x7fff;
constexpr int BF16_NAN = 0x7fc0;
// The upper half of a word: in a pair of bfloat16 the second one.
constexpr int BF16_UPPER = static_cast<int>(0xffff0000);

constexpr int64_t CACHE_LINE = 64;

// Several small numbers that lie together, as one word that an instruction repeats in all lanes.
OCTAVO_INLINE int32_t word_at(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// Brings a cache line into the second-level cache: more is fetched ahead than the first level holds.
OCTAVO_INLINE void prefetch(const uint8_t* p) {
  constexpr int FOR_READING = 0, SECOND_LEVEL = 2;
  __builtin_prefetch(p, FOR_READING, SECOND_LEVEL);
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
