// Sixteen float32 lanes in one AVX-512 register.
#pragma once

#include "simd_common.h"

namespace octavo {
namespace OCTAVO_ISA {

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};

OCTAVO_INLINE F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
OCTAVO_INLINE F32x16 zero() { return {_mm512_setzero_ps()}; }
OCTAVO_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
OCTAVO_INLINE void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
OCTAVO_INLINE F32x16 load_first(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)};
}
OCTAVO_INLINE void store_first(float* p, F32x16 a, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v);
}
OCTAVO_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
OCTAVO_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
OCTAVO_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
OCTAVO_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
OCTAVO_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
OCTAVO_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
OCTAVO_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
OCTAVO_INLINE F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
OCTAVO_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
OCTAVO_INLINE F32x16 where_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
OCTAVO_INLINE F32x16 round(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
OCTAVO_INLINE F32x16 first(int n, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>((1u << n) - 1), b.v, a.v)};
}
OCTAVO_INLINE F32x16 pow2(F32x16 n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(EXPONENT_BIAS));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, MANTISSA_BITS))};
}
OCTAVO_INLINE F32x16 load_bf16(const uint16_t* p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
constexpr int BF16_AT_ONCE = 2;
// Of thirty-two numbers that lie together: one permutation for sixteen of them, which puts each into the upper half of a word.
OCTAVO_INLINE void load_bf16_pair(const uint16_t* p, F32x16 (&pair)[2]) {
  constexpr __mmask32 UPPER = 0xaaaaaaaa;
  alignas(CACHE_LINE) static constexpr uint16_t FIRST[] = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                                           0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  const __m512i numbers = _mm512_loadu_si512(p), first = _mm512_load_si512(FIRST);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(LANES));
  pair[0] = {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(UPPER, first, numbers))};
  pair[1] = {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(UPPER, second, numbers))};
}
OCTAVO_INLINE F32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
OCTAVO_INLINE void store_bf16(uint16_t* p, F32x16 a) {
  __m512i bits = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(BF16_ROUNDING))), 16);
  __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(BF16_NAN));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
OCTAVO_INLINE void store_f16(uint16_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
OCTAVO_INLINE I32x16 nearest(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }
OCTAVO_INLINE void store_i8(int8_t* p, I32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v));
}
OCTAVO_INLINE void store_i16(int16_t* p, I32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(a.v));
}
struct I16Pairs {
  __m512i v;
};
OCTAVO_INLINE I16Pairs load_i8_pairs(const int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
OCTAVO_INLINE void add_pair_products(I32x16& sums, I16Pairs pairs, int32_t word) {
  sums.v = _mm512_dpwssd_epi32(sums.v, pairs.v, _mm512_set1_epi32(word));
}
OCTAVO_INLINE F32x16 load_bf16_evens(const uint8_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
OCTAVO_INLINE F32x16 load_bf16_odds(const uint8_t* p) {
  __m512i upper = _mm512_set1_epi32(BF16_UPPER);
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), upper))};
}
OCTAVO_INLINE I32x16 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
OCTAVO_INLINE F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
OCTAVO_INLINE I32x16 iota() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}
OCTAVO_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
OCTAVO_INLINE I32x16 operator*(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
OCTAVO_INLINE I32x16 operator^(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int BITS>
OCTAVO_INLINE I32x16 shift_right(I32x16 a) {
  return {_mm512_srli_epi32(a.v, BITS)};
}
OCTAVO_INLINE F32x16 unsigned_to_float(I32x16 a) { return {_mm512_cvtepu32_ps(a.v)}; }
OCTAVO_INLINE uint32_t which_at_least(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
OCTAVO_INLINE F32x16 load_bf16_mixed(const uint16_t* p) { return load_bf16(p); }
OCTAVO_INLINE F32x16 bf16_in_order(F32x16 a) { return a; }
OCTAVO_INLINE F32x16 where_at_least(F32x16 x, F32x16 bound, F32x16 a) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_GE_OQ), a.v)};
}
// GCC's vectors of four float32, whose operators work on each lane, as those of single numbers do.
template <class Function>
OCTAVO_INLINE float folded_half(__m256 a, Function f) {
  const __m128 four = f(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = f(four, _mm_movehl_ps(four, four));
  return f(two, _mm_movehdup_ps(two))[0];
}
OCTAVO_INLINE int32_t sum_lanes(I32x16 a) { return _mm512_reduce_add_epi32(a.v); }
template <class Function>
OCTAVO_INLINE float folded(F32x16 a, Function f) {
  return folded_half(f(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)), f);
}
// What the compiler must be told with AVX2's sixteen registers (simd_avx2.h); 32 suffice.
OCTAVO_INLINE void pin(F32x16&) {}
template <class T>
OCTAVO_INLINE const T* reread(const T* p) {
  return p;
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
