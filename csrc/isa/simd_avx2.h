// Sixteen float32 lanes in two AVX2 registers.
#pragma once

#include "simd_common.h"

namespace octavo {
namespace OCTAVO_ISA {

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};

// A pack works in each 128-bit half by itself: this permutation of 64-bit parts (0, 2, 1, 3) puts its result in order.
constexpr int IN_ORDER = 0xd8;
// Of two registers, the lower 128-bit halves of both, and the upper ones.
constexpr int LOWER_HALVES = 0x20;
constexpr int UPPER_HALVES = 0x31;

OCTAVO_INLINE __m256i lane_mask(int n) {  // of 8 lanes, those below n
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
OCTAVO_INLINE F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
OCTAVO_INLINE F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
OCTAVO_INLINE F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
OCTAVO_INLINE void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
OCTAVO_INLINE F32x16 load_first(const float* p, int n) {
  return {_mm256_maskload_ps(p, lane_mask(n)), _mm256_maskload_ps(p + 8, lane_mask(n - 8))};
}
OCTAVO_INLINE void store_first(float* p, F32x16 a, int n) {
  _mm256_maskstore_ps(p, lane_mask(n), a.lo);
  _mm256_maskstore_ps(p + 8, lane_mask(n - 8), a.hi);
}
OCTAVO_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
OCTAVO_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
OCTAVO_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
OCTAVO_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
OCTAVO_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
OCTAVO_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
OCTAVO_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
OCTAVO_INLINE F32x16 abs(F32x16 a) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
OCTAVO_INLINE F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
OCTAVO_INLINE F32x16 where_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
OCTAVO_INLINE F32x16 round(F32x16 a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
OCTAVO_INLINE F32x16 first(int n, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lane_mask(n))),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(lane_mask(n - 8)))};
}
OCTAVO_INLINE __m256 pow2_half(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(EXPONENT_BIAS));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, MANTISSA_BITS));
}
OCTAVO_INLINE F32x16 pow2(F32x16 n) { return {pow2_half(n.lo), pow2_half(n.hi)}; }
OCTAVO_INLINE __m256 bf16_half(const uint16_t* p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
OCTAVO_INLINE F32x16 load_bf16(const uint16_t* p) { return {bf16_half(p), bf16_half(p + 8)}; }
// Even lanes, then odd ones: half the operations of load_bf16.
OCTAVO_INLINE F32x16 load_bf16_mixed(const uint16_t* p) {
  __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  __m256i upper = _mm256_set1_epi32(BF16_UPPER);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(_mm256_and_si256(pairs, upper))};
}
constexpr int BF16_AT_ONCE = 1;  // two vectors would take four registers of sixteen
OCTAVO_INLINE void load_bf16_pair(const uint16_t* p, F32x16 (&pair)[2]) {
  pair[0] = load_bf16_mixed(p);
  pair[1] = load_bf16_mixed(p + LANES);
}
OCTAVO_INLINE F32x16 bf16_in_order(F32x16 a) {
  __m256 low = _mm256_unpacklo_ps(a.lo, a.hi), high = _mm256_unpackhi_ps(a.lo, a.hi);
  return {_mm256_permute2f128_ps(low, high, LOWER_HALVES), _mm256_permute2f128_ps(low, high, UPPER_HALVES)};
}
OCTAVO_INLINE F32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
OCTAVO_INLINE __m256i bf16_bits(__m256 a) {  // in the low half of each word
  __m256i bits = _mm256_castps_si256(a);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(BF16_ROUNDING))), 16);
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(BF16_NAN), is_nan);
}
OCTAVO_INLINE void store_bf16(uint16_t* p, F32x16 a) {
  __m256i packed = _mm256_packus_epi32(bf16_bits(a.lo), bf16_bits(a.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, IN_ORDER));
}
OCTAVO_INLINE void store_f16(uint16_t* p, F32x16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, mode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, mode));
}
OCTAVO_INLINE I32x16 nearest(F32x16 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
OCTAVO_INLINE __m128i to_i8(I32x16 a) {
  __m256i words = _mm256_packs_epi32(a.lo, a.hi);
  words = _mm256_permute4x64_epi64(words, IN_ORDER);
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
OCTAVO_INLINE void store_i8(int8_t* p, I32x16 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_i8(a)); }
OCTAVO_INLINE void store_i16(int16_t* p, I32x16 a) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), IN_ORDER);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
}
struct I16Pairs {
  __m256i lo, hi;
};
OCTAVO_INLINE I16Pairs load_i8_pairs(const int8_t* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(halves)), _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1))};
}
// Integer additions that are complete here, as `pin` has it: GCC puts sums of integers in another order, and holds what is to
// be added in memory until then. Sums of words may begin with their first product, where GCC sees that they are zero; of
// others it would add elsewhere and copy.
OCTAVO_INLINE void add_to(__m256i& sum, __m256i x) { asm volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x)); }
OCTAVO_INLINE void add_words_to(__m256i& sum, __m256i x) {
  sum = _mm256_add_epi16(sum, x);
  asm volatile("" : "+x"(sum));
}
OCTAVO_INLINE void add_pair_products(I32x16& sums, const I16Pairs& pairs, int32_t word) {
  const __m256i factors = _mm256_set1_epi32(word);
  add_to(sums.lo, _mm256_madd_epi16(pairs.lo, factors));
  add_to(sums.hi, _mm256_madd_epi16(pairs.hi, factors));
}
OCTAVO_INLINE __m256i words_at(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
// Says that what lies here must be read again: registers are too few to keep it since it was read last.
template <class T>
OCTAVO_INLINE const T* reread(const T* p) {
  asm volatile("" : "+r"(p));
  return p;
}
OCTAVO_INLINE F32x16 load_bf16_evens(const uint8_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words_at(p), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(words_at(p + 32), 16))};
}
OCTAVO_INLINE F32x16 load_bf16_odds(const uint8_t* p) {
  p = reread(p);
  __m256i upper = _mm256_set1_epi32(BF16_UPPER);
  return {_mm256_castsi256_ps(_mm256_and_si256(words_at(p), upper)),
          _mm256_castsi256_ps(_mm256_and_si256(words_at(p + 32), upper))};
}
OCTAVO_INLINE F32x16 where_at_least(F32x16 x, F32x16 bound, F32x16 a) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, bound.lo, _CMP_GE_OQ), a.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, bound.hi, _CMP_GE_OQ), a.hi)};
}
// GCC's vectors of four float32, whose operators work on each lane, as those of single numbers do.
template <class Function>
OCTAVO_INLINE float folded_half(__m256 a, Function f) {
  const __m128 four = f(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = f(four, _mm_movehl_ps(four, four));
  return f(two, _mm_movehdup_ps(two))[0];
}
OCTAVO_INLINE int32_t sum_lanes(I32x16 a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}
template <class Function>
OCTAVO_INLINE float folded(F32x16 a, Function f) {
  return folded_half(f(a.lo, a.hi), f);
}
// Says that a sum is complete here and in registers. Without it GCC computes a tile's factors ahead of their use, for which
// sixteen registers don't suffice, and the sums go through memory.
OCTAVO_INLINE void pin(F32x16& a) { asm volatile("" : "+x"(a.lo), "+x"(a.hi)); }
OCTAVO_INLINE I32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
OCTAVO_INLINE F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
OCTAVO_INLINE I32x16 iota() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
OCTAVO_INLINE I32x16 operator+(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
OCTAVO_INLINE I32x16 operator*(I32x16 a, I32x16 b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
OCTAVO_INLINE I32x16 operator^(I32x16 a, I32x16 b) {
  return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
template <int BITS>
OCTAVO_INLINE I32x16 shift_right(I32x16 a) {
  return {_mm256_srli_epi32(a.lo, BITS), _mm256_srli_epi32(a.hi, BITS)};
}
// Each half of 16 bits is exact, so that only their sum rounds.
OCTAVO_INLINE __m256 unsigned_half(__m256i a) {
  const __m256 upper = _mm256_cvtepi32_ps(_mm256_srli_epi32(a, 16));
  const __m256 lower = _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)));
  return _mm256_add_ps(_mm256_mul_ps(upper, _mm256_set1_ps(65536.0f)), lower);
}
OCTAVO_INLINE F32x16 unsigned_to_float(I32x16 a) { return {unsigned_half(a.lo), unsigned_half(a.hi)}; }
OCTAVO_INLINE uint32_t which_at_least(F32x16 a, F32x16 b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ));
  return static_cast<uint32_t>(low | high << 8);
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
