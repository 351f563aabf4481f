// The bits of float32 and float16, and single numbers of the one as the other without instructions for it. Inlined always:
// files of several instruction sets use it.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

// float32: sign, 8 bits of exponent (2^n is stored as n + 127), 23 of mantissa.
constexpr int MANTISSA_BITS = 23;
constexpr int EXPONENT_BIAS = 127;
constexpr uint32_t FLOAT_INFINITY = 0x7f800000;
// float16 against float32: digits that are cut off, how much smaller the exponent's bias is, the smallest number above 0.
constexpr uint32_t F16_SHIFT = 13;
constexpr uint32_t F16_REBIAS = 112;
constexpr float F16_SMALLEST = 1.0f / 16777216.0f;  // 2^-24

inline __attribute__((always_inline)) float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline __attribute__((always_inline)) float f16_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = (half >> 10) & 31, digits = half & 0x3ff;
  if (exponent == 31) return bits_float(sign | FLOAT_INFINITY | (digits << F16_SHIFT));
  if (exponent == 0) {
    const float subnormal = static_cast<float>(digits) * F16_SMALLEST;
    return sign ? -subnormal : subnormal;
  }
  return bits_float(sign | ((exponent + F16_REBIAS) << MANTISSA_BITS) | (digits << F16_SHIFT));
}

}  // namespace octavo
