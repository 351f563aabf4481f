// Sixteen float32 lanes, on whatever the processor has: one AVX-512 register, two AVX2 registers, or an array of 16 that
// the compiler maps to what it knows (SSE2, NEON). Kernels are written once in these words; this header is compiled
// once an instruction set, each time in a namespace of its own (OCTAVO_ISA).
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if !defined(OCTAVO_ISA)
#error "compile through isa_*.cpp, which define OCTAVO_ISA"
#endif

#define OCTAVO_INLINE inline __attribute__((always_inline))

namespace octavo {
namespace OCTAVO_ISA {

constexpr int LANES = 16;

// What a micro kernel of a product sums at once, as much as the registers hold: up to MAX_ROWS rows, each over so many
// vectors of outputs, and at the least MIN_HALVES of them. Few rows leave registers for more vectors, whose independent
// chains hide the latency of a multiply-add.
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

#if defined(__AVX512F__)

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
OCTAVO_INLINE F32x16 round(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a where the lane's index is below n, else b.
OCTAVO_INLINE F32x16 first(int n, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>((1u << n) - 1), b.v, a.v)};
}
// 2^n for whole n from -126 to 127.
OCTAVO_INLINE F32x16 pow2(F32x16 n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
OCTAVO_INLINE F32x16 load_bf16(const uint16_t* p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
OCTAVO_INLINE F32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
OCTAVO_INLINE F32x16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
// Rounds to nearest even; NaN stays NaN.
OCTAVO_INLINE void store_bf16(uint16_t* p, F32x16 a) {
  __m512i bits = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
OCTAVO_INLINE void store_f16(uint16_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Lanes hold whole numbers from -127 to 127.
OCTAVO_INLINE void store_i8(int8_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
// Of sixteen pairs of bfloat16, the first members, and the second.
OCTAVO_INLINE F32x16 load_bf16_evens(const uint8_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
OCTAVO_INLINE F32x16 load_bf16_odds(const uint8_t* p) {
  __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), upper))};
}
OCTAVO_INLINE I32x16 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
OCTAVO_INLINE F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
OCTAVO_INLINE void pin(F32x16&) {}
template <class T>
OCTAVO_INLINE const T* reread(const T* p) {  // as `pin`, for AVX2 only
  return p;
}

#elif defined(__AVX2__)

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};

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
OCTAVO_INLINE F32x16 round(F32x16 a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
OCTAVO_INLINE F32x16 first(int n, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(lane_mask(n))),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(lane_mask(n - 8)))};
}
OCTAVO_INLINE __m256 pow2_half(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
OCTAVO_INLINE F32x16 pow2(F32x16 n) { return {pow2_half(n.lo), pow2_half(n.hi)}; }
OCTAVO_INLINE __m256 bf16_half(const uint16_t* p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
OCTAVO_INLINE F32x16 load_bf16(const uint16_t* p) { return {bf16_half(p), bf16_half(p + 8)}; }
// The same in another order of lanes, which takes half the operations; `in_order` puts them right.
OCTAVO_INLINE F32x16 load_bf16_mixed(const uint16_t* p) {  // even lanes, then odd ones
  __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(_mm256_and_si256(pairs, upper))};
}
OCTAVO_INLINE F32x16 bf16_in_order(F32x16 a) {
  __m256 low = _mm256_unpacklo_ps(a.lo, a.hi), high = _mm256_unpackhi_ps(a.lo, a.hi);
  return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
OCTAVO_INLINE F32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
OCTAVO_INLINE __m256 i8_half(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
OCTAVO_INLINE F32x16 load_i8(const int8_t* p) { return {i8_half(p), i8_half(p + 8)}; }
OCTAVO_INLINE __m256i bf16_bits(__m256 a) {  // in the low half of each word
  __m256i bits = _mm256_castps_si256(a);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), is_nan);
}
OCTAVO_INLINE void store_bf16(uint16_t* p, F32x16 a) {
  __m256i packed = _mm256_packus_epi32(bf16_bits(a.lo), bf16_bits(a.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
OCTAVO_INLINE void store_f16(uint16_t* p, F32x16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.lo, mode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.hi, mode));
}
OCTAVO_INLINE __m128i to_i8(F32x16 a) {
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  words = _mm256_permute4x64_epi64(words, 0xd8);
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
OCTAVO_INLINE void store_i8(int8_t* p, F32x16 a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_i8(a)); }
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
  __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(words_at(p), upper)),
          _mm256_castsi256_ps(_mm256_and_si256(words_at(p + 32), upper))};
}
// Says that a sum is complete here and in registers. Without it GCC computes a tile's factors ahead of their use, for which
// sixteen registers don't suffice, and the sums go through memory.
OCTAVO_INLINE void pin(F32x16& a) { asm volatile("" : "+x"(a.lo), "+x"(a.hi)); }
// The same for an addition: in place, where GCC would add elsewhere and copy.
OCTAVO_INLINE void add_to(__m256i& sum, __m256i x) { asm volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x)); }
OCTAVO_INLINE I32x16 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
OCTAVO_INLINE F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

#else

struct F32x16 {
  float v[LANES];
};
struct I32x16 {
  int32_t v[LANES];
};

#define OCTAVO_EACH(expression)                                  \
  F32x16 out;                                                    \
  for (int i = 0; i < LANES; ++i) out.v[i] = expression;         \
  return out

OCTAVO_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
OCTAVO_INLINE float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
OCTAVO_INLINE float f16_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = (half >> 10) & 31, digits = half & 0x3ff;
  if (exponent == 31) return bits_float(sign | 0x7f800000 | (digits << 13));
  if (exponent == 0) {
    const float subnormal = static_cast<float>(digits) * (1.0f / 16777216.0f);
    return sign ? -subnormal : subnormal;
  }
  return bits_float(sign | ((exponent + 112) << 23) | (digits << 13));
}
OCTAVO_INLINE uint16_t float_f16(float x) {
  const uint32_t bits = float_bits(x), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  if (size < 0x38800000) {  // subnormal: adding a half aligns the digits, and the addition rounds
    const uint32_t digits = float_bits(bits_float(size) + 0.5f) - 0x3f000000;
    return static_cast<uint16_t>(sign | digits);
  }
  return static_cast<uint16_t>(sign | ((size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13));
}
OCTAVO_INLINE float nearest_even(float x) {  // |x| below 2^22
  const float magic = x < 0 ? -8388608.0f : 8388608.0f;
  volatile float sum = x + magic;  // volatile: the compiler must not cancel the two
  return sum - magic;
}

OCTAVO_INLINE F32x16 set1(float x) { OCTAVO_EACH(x); }
OCTAVO_INLINE F32x16 zero() { return set1(0.0f); }
OCTAVO_INLINE F32x16 load(const float* p) { OCTAVO_EACH(p[i]); }
OCTAVO_INLINE void store(float* p, F32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
OCTAVO_INLINE F32x16 load_first(const float* p, int n) { OCTAVO_EACH(i < n ? p[i] : 0.0f); }
OCTAVO_INLINE void store_first(float* p, F32x16 a, int n) {
  for (int i = 0; i < n && i < LANES; ++i) p[i] = a.v[i];
}
#if defined(__FP_FAST_FMAF)
OCTAVO_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { OCTAVO_EACH(__builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
#else
OCTAVO_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { OCTAVO_EACH(a.v[i] * b.v[i] + c.v[i]); }
#endif
OCTAVO_INLINE F32x16 operator+(F32x16 a, F32x16 b) { OCTAVO_EACH(a.v[i] + b.v[i]); }
OCTAVO_INLINE F32x16 operator-(F32x16 a, F32x16 b) { OCTAVO_EACH(a.v[i] - b.v[i]); }
OCTAVO_INLINE F32x16 operator*(F32x16 a, F32x16 b) { OCTAVO_EACH(a.v[i] * b.v[i]); }
OCTAVO_INLINE F32x16 operator/(F32x16 a, F32x16 b) { OCTAVO_EACH(a.v[i] / b.v[i]); }
OCTAVO_INLINE F32x16 max(F32x16 a, F32x16 b) { OCTAVO_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
OCTAVO_INLINE F32x16 min(F32x16 a, F32x16 b) { OCTAVO_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
OCTAVO_INLINE F32x16 abs(F32x16 a) { OCTAVO_EACH(a.v[i] < 0 ? -a.v[i] : a.v[i]); }
OCTAVO_INLINE F32x16 round(F32x16 a) { OCTAVO_EACH(nearest_even(a.v[i])); }
OCTAVO_INLINE F32x16 first(int n, F32x16 a, F32x16 b) { OCTAVO_EACH(i < n ? a.v[i] : b.v[i]); }
OCTAVO_INLINE F32x16 pow2(F32x16 n) {
  OCTAVO_EACH(bits_float(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23));
}
OCTAVO_INLINE F32x16 load_bf16(const uint16_t* p) { OCTAVO_EACH(bits_float(static_cast<uint32_t>(p[i]) << 16)); }
OCTAVO_INLINE F32x16 load_f16(const uint16_t* p) { OCTAVO_EACH(f16_float(p[i])); }
OCTAVO_INLINE F32x16 load_i8(const int8_t* p) { OCTAVO_EACH(static_cast<float>(p[i])); }
OCTAVO_INLINE void store_bf16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < LANES; ++i) {
    const uint32_t bits = float_bits(a.v[i]);
    p[i] = a.v[i] != a.v[i] ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}
OCTAVO_INLINE void store_f16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < LANES; ++i) p[i] = float_f16(a.v[i]);
}
OCTAVO_INLINE void store_i8(int8_t* p, F32x16 a) {
  for (int i = 0; i < LANES; ++i) p[i] = static_cast<int8_t>(a.v[i]);
}
OCTAVO_INLINE F32x16 load_bf16_evens(const uint8_t* p) {
  uint16_t pairs[2 * LANES];
  std::memcpy(pairs, p, sizeof pairs);
  OCTAVO_EACH(bits_float(static_cast<uint32_t>(pairs[2 * i]) << 16));
}
OCTAVO_INLINE F32x16 load_bf16_odds(const uint8_t* p) {
  uint16_t pairs[2 * LANES];
  std::memcpy(pairs, p, sizeof pairs);
  OCTAVO_EACH(bits_float(static_cast<uint32_t>(pairs[2 * i + 1]) << 16));
}
OCTAVO_INLINE I32x16 set1_i32(int32_t x) {
  I32x16 out;
  for (int i = 0; i < LANES; ++i) out.v[i] = x;
  return out;
}
OCTAVO_INLINE F32x16 to_float(I32x16 a) { OCTAVO_EACH(static_cast<float>(a.v[i])); }
OCTAVO_INLINE void pin(F32x16&) {}
template <class T>
OCTAVO_INLINE const T* reread(const T* p) {  // as `pin`, for AVX2 only
  return p;
}

#endif

// Sixteen activations of an int8 product, whole numbers from -127 to 127, as the product takes them, and what the integer
// sums over them start at, exact in float32.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// Each quad's four magnitudes, then four bytes that, by exclusive or, make of unsigned weights w + 128 signed ones: w for
// an activation of 0 or more, -w - 1 for a negative one. Each of these misses its magnitude: sums start there.
constexpr Form INT8_FORM = Form::int8_split;
using Quantized = uint16_t;
OCTAVO_INLINE void store_quantized(uint16_t* p, F32x16 a) {
  const __m128i values = to_i8(a);
  const __m128i magnitudes = _mm_abs_epi8(values), is_negative = _mm_cmpgt_epi8(_mm_setzero_si128(), values);
  const __m128i signs = _mm_xor_si128(is_negative, _mm_set1_epi8(-128));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(magnitudes, signs));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm_unpackhi_epi32(magnitudes, signs));
}
OCTAVO_INLINE F32x16 start_from(F32x16 a) { return max(zero() - a, zero()); }
#else
// The unsigned weight is the true one plus 128.
constexpr Form INT8_FORM = Form::int8;
using Quantized = int8_t;
OCTAVO_INLINE void store_quantized(int8_t* p, F32x16 a) { store_i8(p, a); }
OCTAVO_INLINE F32x16 start_from(F32x16 a) { return a * set1(-128.0f); }
#endif

// The sum of the lanes, always in the same order: neighbours at distance 8, then 4, 2, 1.
OCTAVO_INLINE float sum_lanes(F32x16 a) {
  float v[LANES];
  store(v, a);
  for (int distance = 8; distance > 0; distance /= 2)
    for (int i = 0; i < distance; ++i) v[i] += v[i + distance];
  return v[0];
}
OCTAVO_INLINE float max_lane(F32x16 a) {
  float v[LANES];
  store(v, a);
  for (int distance = 8; distance > 0; distance /= 2)
    for (int i = 0; i < distance; ++i) v[i] = v[i] > v[i + distance] ? v[i] : v[i + distance];
  return v[0];
}

// e^x to within 2 units in the last place; 0 below -87.3 (as e^x would be subnormal), e^88.3 above 88.3.
// Cephes' expf: x = n ln 2 + r, and a polynomial of degree 6 in r.
OCTAVO_INLINE F32x16 exp(F32x16 x) {
  const F32x16 lowest = set1(-87.3f);
  const F32x16 clamped = min(max(x, lowest), set1(88.3f));
  const F32x16 n = round(clamped * set1(1.44269504088896341f));
  F32x16 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  const F32x16 result = fma(p, r * r, r + set1(1.0f)) * pow2(n);
#if defined(__AVX512F__)
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, lowest.v, _CMP_GE_OQ), result.v)};
#elif defined(__AVX2__)
  return {_mm256_and_ps(_mm256_cmp_ps(x.lo, lowest.lo, _CMP_GE_OQ), result.lo),
          _mm256_and_ps(_mm256_cmp_ps(x.hi, lowest.hi, _CMP_GE_OQ), result.hi)};
#else
  OCTAVO_EACH(x.v[i] >= lowest.v[i] ? result.v[i] : 0.0f);
#endif
}

#if !defined(__AVX2__) || defined(__AVX512F__)
OCTAVO_INLINE F32x16 load_bf16_mixed(const uint16_t* p) { return load_bf16(p); }
OCTAVO_INLINE F32x16 bf16_in_order(F32x16 a) { return a; }
#endif

// Element types of stored keys, values and weights; each loads into and is stored from sixteen float32 lanes. Where many
// are loaded for each result, `load16_mixed` may be cheaper: `in_order` puts the result's lanes right.
struct InOrder {
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
  static OCTAVO_INLINE F32x16 load16(const uint16_t* p) { return load_bf16(p); }
  static OCTAVO_INLINE F32x16 load16_mixed(const uint16_t* p) { return load_bf16_mixed(p); }
  static OCTAVO_INLINE F32x16 in_order(F32x16 a) { return bf16_in_order(a); }
  static OCTAVO_INLINE void store16(uint16_t* p, F32x16 a) { store_bf16(p, a); }
};
struct Float16 : InOrder {
  using Stored = uint16_t;
  static OCTAVO_INLINE F32x16 load16(const uint16_t* p) { return load_f16(p); }
  static OCTAVO_INLINE F32x16 load16_mixed(const uint16_t* p) { return load_f16(p); }
  static OCTAVO_INLINE void store16(uint16_t* p, F32x16 a) { store_f16(p, a); }
};
struct Int8 : InOrder {
  using Stored = int8_t;
  static OCTAVO_INLINE F32x16 load16(const int8_t* p) { return load_i8(p); }
  static OCTAVO_INLINE F32x16 load16_mixed(const int8_t* p) { return load_i8(p); }
  static OCTAVO_INLINE void store16(int8_t* p, F32x16 a) { store_i8(p, a); }
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
