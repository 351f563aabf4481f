// Sixteen float32 lanes, on whatever the processor has. Kernels are written once in these words; this header is compiled
// once an instruction set, each time in a namespace of its own (OCTAVO_ISA).
//
//   F32x16, I32x16               sixteen float32, sixteen int32
//   set1, zero, set1_i32         all lanes alike
//   load, store                  sixteen numbers at any address
//   load_first, store_first      the first n of 0 to 16; the other lanes are 0, or stay unwritten
//   first(n, a, b)               a where the lane's index is below n, else b
//   where_at_least(x, bound, a)  a where x is at least `bound`, else 0
//   where_less(a, b, x, y)       x where a is less than b, else y
//   sqrt                         of numbers of 0 or more
//   + - * / max min abs          of each lane; max and min give their second argument where one is NaN
//   fma(a, b, c)                 a * b + c, rounded once where the processor can
//   round                        to the nearest whole number, ties to even
//   pow2                         2^n, for whole n from -126 to 127
//   to_float, nearest            of int32 below 2^24 exactly; to the nearest int32, ties to even
//   sum_lanes                    of int32, too
//   iota, + * ^, shift_right<n>  of int32 lanes, without a sign: 0 to 15, products that wrap around, zeros shifted in
//   unsigned_to_float            of uint32, rounded once
//   which_at_least(a, b)         bit i: whether lane i of a is at least that of b
//   load_bf16, load_f16          widened
//   store_bf16, store_f16, store_i8  rounded to nearest even, NaN stays NaN; store_i8 takes numbers from -128 to 127
//   load_i8_pairs                sixteen pairs of int8 that lie together, widened to int16
//   add_pair_products            to each lane the products of its pair with the two int16 of a word, which all lanes share
//   store_i16                    of int32, numbers from -32767 to 32767
//   load_bf16_evens, load_bf16_odds  of sixteen pairs of bfloat16, the first members, and the second
//   load_bf16_mixed, bf16_in_order   load_bf16 in an order of lanes that may be cheaper, and what puts it right
//   load_bf16_pair               load_bf16_mixed of two vectors that lie together; cheaper where BF16_AT_ONCE is 2
//   folded(a, f)                 f of the lanes at distance 8, of what that gives at distance 4, then 2, then 1
//   pin, reread                  say nothing but to AVX2's compiler (simd_avx2.h)
#pragma once

#if defined(__AVX512F__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

namespace octavo {
namespace OCTAVO_ISA {

// Up to sixteen numbers: `left` are left of a row.
OCTAVO_INLINE F32x16 load_up_to(const float* p, int64_t left) {
  return left >= LANES ? load(p) : load_first(p, static_cast<int>(left));
}
OCTAVO_INLINE void store_up_to(float* p, F32x16 a, int64_t left) {
  if (left >= LANES) {
    store(p, a);
  } else {
    store_first(p, a, static_cast<int>(left));
  }
}

// The sum of the lanes and the highest, always in the same order: neighbours at distance 8, then 4, 2, 1.
OCTAVO_INLINE float sum_lanes(F32x16 a) {
  return folded(a, [](auto x, auto y) { return x + y; });
}
OCTAVO_INLINE float max_lane(F32x16 a) {
  return folded(a, [](auto x, auto y) { return x > y ? x : y; });
}

OCTAVO_INLINE void store_i8(int8_t* p, F32x16 a) { store_i8(p, nearest(a)); }

// What brings numbers up to `range` to up to `largest`. Of a range that is nearly 0 the quotient would be infinite.
OCTAVO_INLINE F32x16 inverse_of(float range, float largest) {
  return min(set1(range > 0 ? largest / range : 0.0f), set1(__FLT_MAX__));
}

// e^x to within 2 units in the last place; 0 below LOWEST_EXPONENT, as e^x would be subnormal, and at the most
// e^HIGHEST_EXPONENT. Cephes' expf: x = n ln 2 + r, and a polynomial of degree 6 in r.
constexpr float LOWEST_EXPONENT = -87.3f;
constexpr float HIGHEST_EXPONENT = 88.3f;
OCTAVO_INLINE F32x16 exp(F32x16 x) {
  constexpr float LOG2_E = 1.44269504088896341f;
  // ln 2 as a short number, whose product with n is exact, less what that is too much.
  constexpr float LN2_SHORT = 0.693359375f, LN2_EXCESS = 2.12194440e-4f;
  const F32x16 lowest = set1(LOWEST_EXPONENT);
  const F32x16 clamped = min(max(x, lowest), set1(HIGHEST_EXPONENT));
  const F32x16 n = round(clamped * set1(LOG2_E));
  F32x16 r = fma(n, set1(-LN2_SHORT), clamped);
  r = fma(n, set1(LN2_EXCESS), r);
  F32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  const F32x16 result = fma(p, r * r, r + set1(1.0f)) * pow2(n);
  return where_at_least(x, lowest, result);
}

// Element types of stored keys, values and weights; each loads into and is stored from sixteen float32 lanes. Where many
// are loaded for each result, `load16_mixed` may be cheaper: `in_order` puts the result's lanes right. AT_ONCE vectors that
// lie together are best loaded together.
struct InOrder {
  static constexpr int AT_ONCE = 1;
  static OCTAVO_INLINE F32x16 in_order(F32x16 a) { return a; }
};
struct Float32 : InOrder {
  using Stored = float;
  static OCTAVO_INLINE F32x16 load16(const float* p) { return load(p); }
  static OCTAVO_INLINE F32x16 load16_mixed(const float* p) { return load(p); }
  static OCTAVO_INLINE void store16(float* p, F32x16 a) { store(p, a); }
};
struct BFloat16 {
  using Stored = uint16_t;
  static constexpr int AT_ONCE = BF16_AT_ONCE;
  static OCTAVO_INLINE F32x16 load16(const uint16_t* p) { return load_bf16(p); }
  static OCTAVO_INLINE F32x16 load16_mixed(const uint16_t* p) { return load_bf16_mixed(p); }
  static OCTAVO_INLINE void load_pair_mixed(const uint16_t* p, F32x16 (&pair)[2]) { load_bf16_pair(p, pair); }
  static OCTAVO_INLINE F32x16 in_order(F32x16 a) { return bf16_in_order(a); }
  static OCTAVO_INLINE void store16(uint16_t* p, F32x16 a) { store_bf16(p, a); }
};
struct Float16 : InOrder {
  using Stored = uint16_t;
  static OCTAVO_INLINE F32x16 load16(const uint16_t* p) { return load_f16(p); }
  static OCTAVO_INLINE F32x16 load16_mixed(const uint16_t* p) { return load_f16(p); }
  static OCTAVO_INLINE void store16(uint16_t* p, F32x16 a) { store_f16(p, a); }
};

// One vector, or two that lie together.
template <class Element, int COUNT>
OCTAVO_INLINE void load_mixed(const typename Element::Stored* p, F32x16 (&vectors)[COUNT]) {
  static_assert(COUNT == 1 || COUNT == 2, "vectors are loaded one by one or in pairs");
  if constexpr (COUNT == 2) {
    Element::load_pair_mixed(p, vectors);
  } else {
    vectors[0] = Element::load16_mixed(p);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
