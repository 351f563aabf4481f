// Sixteen float32 lanes in an array, which the compiler maps to what it knows (SSE2, NEON).
#pragma once

#include "simd_common.h"

namespace octavo {
namespace OCTAVO_ISA {

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
OCTAVO_INLINE uint16_t float_f16(float x) {
  const uint32_t bits = float_bits(x), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  if (size > FLOAT_INFINITY) return static_cast<uint16_t>(sign | 0x7e00);
  if (size >= 0x477ff000)  // rounds to 65536 or more
    return static_cast<uint16_t>(sign | 0x7c00);
  if (size < 0x38800000) {  // below 2^-14, subnormal: adding a half aligns the digits, and the addition rounds
    const uint32_t digits = float_bits(bits_float(size) + 0.5f) - float_bits(0.5f);
    return static_cast<uint16_t>(sign | digits);
  }
  return static_cast<uint16_t>(sign | ((size + 0xfff + ((size >> F16_SHIFT) & 1) - (F16_REBIAS << MANTISSA_BITS)) >> F16_SHIFT));
}
OCTAVO_INLINE float nearest_even(float x) {  // |x| below 2^22
  constexpr float LARGE = 1 << MANTISSA_BITS;  // from here on a float has no digits behind the point
  const float large = x < 0 ? -LARGE : LARGE;
  volatile float sum = x + large;  // volatile: the compiler must not cancel the two
  return sum - large;
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
OCTAVO_INLINE F32x16 sqrt(F32x16 a) { OCTAVO_EACH(__builtin_sqrtf(a.v[i])); }
OCTAVO_INLINE F32x16 where_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) { OCTAVO_EACH(a.v[i] < b.v[i] ? x.v[i] : y.v[i]); }
OCTAVO_INLINE F32x16 round(F32x16 a) { OCTAVO_EACH(nearest_even(a.v[i])); }
OCTAVO_INLINE F32x16 first(int n, F32x16 a, F32x16 b) { OCTAVO_EACH(i < n ? a.v[i] : b.v[i]); }
OCTAVO_INLINE F32x16 pow2(F32x16 n) {
  OCTAVO_EACH(bits_float(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + EXPONENT_BIAS) << MANTISSA_BITS));
}
OCTAVO_INLINE F32x16 load_bf16(const uint16_t* p) { OCTAVO_EACH(bits_float(static_cast<uint32_t>(p[i]) << 16)); }
OCTAVO_INLINE F32x16 load_f16(const uint16_t* p) { OCTAVO_EACH(f16_float(p[i])); }
OCTAVO_INLINE void store_bf16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < LANES; ++i) {
    const uint32_t bits = float_bits(a.v[i]);
    p[i] = a.v[i] != a.v[i] ? BF16_NAN : static_cast<uint16_t>((bits + BF16_ROUNDING + ((bits >> 16) & 1)) >> 16);
  }
}
OCTAVO_INLINE void store_f16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < LANES; ++i) p[i] = float_f16(a.v[i]);
}
OCTAVO_INLINE void store_i16(int16_t* p, I32x16 a) {
  for (int i = 0; i < LANES; ++i) p[i] = static_cast<int16_t>(a.v[i]);
}
struct I16Pairs {
  int16_t v[2 * LANES];
};
OCTAVO_INLINE I16Pairs load_i8_pairs(const int8_t* p) {
  I16Pairs out;
  for (int i = 0; i < 2 * LANES; ++i) out.v[i] = p[i];
  return out;
}
OCTAVO_INLINE void add_pair_products(I32x16& sums, const I16Pairs& pairs, int32_t word) {
  int16_t factors[2];
  std::memcpy(factors, &word, sizeof factors);
  for (int i = 0; i < LANES; ++i) sums.v[i] += pairs.v[2 * i] * factors[0] + pairs.v[2 * i + 1] * factors[1];
}
OCTAVO_INLINE void store_i8(int8_t* p, I32x16 a) {
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
OCTAVO_INLINE I32x16 nearest(F32x16 a) {
  I32x16 out;
  for (int i = 0; i < LANES; ++i) out.v[i] = static_cast<int32_t>(nearest_even(a.v[i]));
  return out;
}
OCTAVO_INLINE I32x16 set1_i32(int32_t x) {
  I32x16 out;
  for (int i = 0; i < LANES; ++i) out.v[i] = x;
  return out;
}
OCTAVO_INLINE F32x16 to_float(I32x16 a) { OCTAVO_EACH(static_cast<float>(a.v[i])); }
template <class Function>
OCTAVO_INLINE I32x16 each_word(Function function) {
  I32x16 out;
  for (int i = 0; i < LANES; ++i) out.v[i] = static_cast<int32_t>(function(i));
  return out;
}
OCTAVO_INLINE uint32_t word(I32x16 a, int i) { return static_cast<uint32_t>(a.v[i]); }
OCTAVO_INLINE I32x16 iota() {
  return each_word([](int i) { return i; });
}
OCTAVO_INLINE I32x16 operator+(I32x16 a, I32x16 b) {
  return each_word([&](int i) { return word(a, i) + word(b, i); });
}
OCTAVO_INLINE I32x16 operator*(I32x16 a, I32x16 b) {
  return each_word([&](int i) { return word(a, i) * word(b, i); });
}
OCTAVO_INLINE I32x16 operator^(I32x16 a, I32x16 b) {
  return each_word([&](int i) { return word(a, i) ^ word(b, i); });
}
template <int BITS>
OCTAVO_INLINE I32x16 shift_right(I32x16 a) {
  return each_word([&](int i) { return word(a, i) >> BITS; });
}
OCTAVO_INLINE F32x16 unsigned_to_float(I32x16 a) { OCTAVO_EACH(static_cast<float>(word(a, i))); }
OCTAVO_INLINE uint32_t which_at_least(F32x16 a, F32x16 b) {
  uint32_t bits = 0;
  for (int i = 0; i < LANES; ++i) bits |= static_cast<uint32_t>(a.v[i] >= b.v[i]) << i;
  return bits;
}
OCTAVO_INLINE F32x16 load_bf16_mixed(const uint16_t* p) { return load_bf16(p); }
constexpr int BF16_AT_ONCE = 1;
OCTAVO_INLINE void load_bf16_pair(const uint16_t* p, F32x16 (&pair)[2]) {
  pair[0] = load_bf16_mixed(p);
  pair[1] = load_bf16_mixed(p + LANES);
}
OCTAVO_INLINE F32x16 bf16_in_order(F32x16 a) { return a; }
OCTAVO_INLINE F32x16 where_at_least(F32x16 x, F32x16 bound, F32x16 a) { OCTAVO_EACH(x.v[i] >= bound.v[i] ? a.v[i] : 0.0f); }
OCTAVO_INLINE int32_t sum_lanes(I32x16 a) {
  int32_t sum = 0;
  for (int i = 0; i < LANES; ++i) sum += a.v[i];
  return sum;
}
template <class Function>
OCTAVO_INLINE float folded(F32x16 a, Function f) {
  for (int distance = LANES / 2; distance > 0; distance /= 2)
    for (int i = 0; i < distance; ++i) a.v[i] = f(a.v[i], a.v[i + distance]);
  return a.v[0];
}
// What the compiler must be told with AVX2's sixteen registers (simd_avx2.h).
OCTAVO_INLINE void pin(F32x16&) {}
template <class T>
OCTAVO_INLINE const T* reread(const T* p) {
  return p;
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
