// Sixteen outputs' 8-bit weights for a quad of inputs, [LANES][QUAD] numbers plus INT8_OFFSET: loaded or unpacked from 4 bits,
// and multiplied by a row's quad of activations.
#pragma once

#include "product_input.h"
#include "product_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int64_t QUADS_BYTES = LANES * QUAD;
constexpr int NIBBLE = 15;
constexpr int NIBBLE_BITS = 4;

#if defined(__AVX512VNNI__)

struct Quads {
  __m512i v;
};
OCTAVO_INLINE Quads load_quads(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }

// The numbers that the codes of 4 bits stand for.
#if defined(__AVX512VBMI__)
// Four times over: the instruction looks at 6 bits, of which the upper two are a neighbour's.
struct CodeTable {
  __m512i numbers;
  explicit OCTAVO_INLINE CodeTable(const uint8_t* table)
      : numbers(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)))) {}
  OCTAVO_INLINE Quads low(Quads codes) const { return {_mm512_permutexvar_epi8(codes.v, numbers)}; }
  OCTAVO_INLINE Quads high(Quads codes) const {
    return {_mm512_permutexvar_epi8(_mm512_srli_epi16(codes.v, NIBBLE_BITS), numbers)};
  }
};
#else
struct CodeTable {
  __m512i numbers, nibble;
  explicit OCTAVO_INLINE CodeTable(const uint8_t* table)
      : numbers(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)))),
        nibble(_mm512_set1_epi8(NIBBLE)) {}
  OCTAVO_INLINE Quads low(Quads codes) const {
    return {_mm512_shuffle_epi8(numbers, _mm512_and_si512(codes.v, nibble))};
  }
  OCTAVO_INLINE Quads high(Quads codes) const {
    return {_mm512_shuffle_epi8(numbers, _mm512_and_si512(_mm512_srli_epi16(codes.v, NIBBLE_BITS), nibble))};
  }
};
#endif

// A row's quad of activations, for all outputs.
struct Activations {
  __m512i v;
  explicit OCTAVO_INLINE Activations(const Quantized* p) : v(_mm512_set1_epi32(word_at(p))) {}
};
OCTAVO_INLINE void add_products(I32x16& sums, Quads weights, Activations x) {
  sums.v = _mm512_dpbusd_epi32(sums.v, weights.v, x.v);
}
// What sums that began at a step's start come to, times the activations' scale.
OCTAVO_INLINE F32x16 scaled(I32x16 sums, const StepScales& step) {
  return fma({_mm512_castsi512_ps(sums.v)}, set1(step.scale), set1(step.shift));
}

#elif defined(__AVX2__)

struct Quads {
  __m256i lo, hi;
};
OCTAVO_INLINE Quads load_quads(const uint8_t* p) { return {words_at(p), words_at(p + QUADS_BYTES / 2)}; }

struct CodeTable {
  __m256i numbers, nibble;
  explicit OCTAVO_INLINE CodeTable(const uint8_t* table)
      : numbers(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)))),
        nibble(_mm256_set1_epi8(NIBBLE)) {}
  OCTAVO_INLINE __m256i number(__m256i codes) const {
    return _mm256_shuffle_epi8(numbers, _mm256_and_si256(codes, nibble));
  }
  OCTAVO_INLINE Quads low(Quads codes) const { return {number(codes.lo), number(codes.hi)}; }
  OCTAVO_INLINE Quads high(Quads codes) const {
    return {number(_mm256_srli_epi16(codes.lo, NIBBLE_BITS)), number(_mm256_srli_epi16(codes.hi, NIBBLE_BITS))};
  }
};

// Magnitudes, and what gives the weights their signs (`store_quantized`): pairs' sums stay within 16 bits.
struct Activations {
  __m256i magnitudes, signs;
  explicit OCTAVO_INLINE Activations(const Quantized* p)
      : magnitudes(_mm256_set1_epi32(word_at(p))), signs(_mm256_set1_epi32(word_at(p + QUAD / 2))) {}
};
OCTAVO_INLINE void add_products(I32x16& sums, Quads weights, Activations x) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i lo = _mm256_maddubs_epi16(x.magnitudes, _mm256_xor_si256(weights.lo, x.signs));
  const __m256i hi = _mm256_maddubs_epi16(x.magnitudes, _mm256_xor_si256(weights.hi, x.signs));
  add_to(sums.lo, _mm256_madd_epi16(lo, ones));
  add_to(sums.hi, _mm256_madd_epi16(hi, ones));
}
// Codes of 4 bits as they are, without a sign: sums of pairs stay within 16 bits over a whole step, 16 * 15 * 127 at the
// most. This takes half the operations.
OCTAVO_INLINE Quads low_codes(Quads codes) {
  const __m256i nibble = _mm256_set1_epi8(NIBBLE);
  return {_mm256_and_si256(codes.lo, nibble), _mm256_and_si256(codes.hi, nibble)};
}
OCTAVO_INLINE Quads high_codes(Quads codes) {
  return low_codes({_mm256_srli_epi16(codes.lo, NIBBLE_BITS), _mm256_srli_epi16(codes.hi, NIBBLE_BITS)});
}
struct PairSums {
  __m256i lo, hi;
};
struct PlainActivations {
  __m256i v;
  explicit OCTAVO_INLINE PlainActivations(const int8_t* p) : v(_mm256_set1_epi32(word_at(p))) {}
};
OCTAVO_INLINE void add_products(PairSums& sums, Quads codes, PlainActivations x) {
  add_words_to(sums.lo, _mm256_maddubs_epi16(codes.lo, x.v));
  add_words_to(sums.hi, _mm256_maddubs_epi16(codes.hi, x.v));
}
OCTAVO_INLINE I32x16 quad_sums(const PairSums& sums, int32_t start) {
  const __m256i ones = _mm256_set1_epi16(1), from = _mm256_set1_epi32(start);
  return {_mm256_add_epi32(_mm256_madd_epi16(sums.lo, ones), from), _mm256_add_epi32(_mm256_madd_epi16(sums.hi, ones), from)};
}
OCTAVO_INLINE F32x16 scaled(I32x16 sums, const StepScales& step) {
  return fma({_mm256_castsi256_ps(sums.lo), _mm256_castsi256_ps(sums.hi)}, set1(step.scale), set1(step.shift));
}

#else

struct Quads {
  uint8_t v[QUADS_BYTES];
};
OCTAVO_INLINE Quads load_quads(const uint8_t* p) {
  Quads out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}

struct CodeTable {
  const uint8_t* numbers;
  explicit OCTAVO_INLINE CodeTable(const uint8_t* table) : numbers(table) {}
  OCTAVO_INLINE Quads low(Quads codes) const {
    for (uint8_t& code : codes.v) code = numbers[code & NIBBLE];
    return codes;
  }
  OCTAVO_INLINE Quads high(Quads codes) const {
    for (uint8_t& code : codes.v) code = numbers[code >> NIBBLE_BITS];
    return codes;
  }
};

struct Activations {
  const Quantized* x;
  explicit OCTAVO_INLINE Activations(const Quantized* p) : x(p) {}
};
// Not inlined: a step would unroll to thousands of instructions.
__attribute__((noinline)) inline void add_products(I32x16& sums, const Quads& weights, Activations activations) {
  for (int i = 0; i < LANES; ++i)
    for (int64_t j = 0; j < QUAD; ++j) {
      sums.v[i] += static_cast<int32_t>(weights.v[i * QUAD + j]) * activations.x[j];
    }
}
// Without a multiply-add that rounds once.
OCTAVO_INLINE F32x16 scaled(I32x16 sums, const StepScales& step) {
  OCTAVO_EACH(static_cast<float>(sums.v[i] - SUM_OFFSET_BITS) * step.scale);
}

#endif

}  // namespace OCTAVO_ISA
}  // namespace octavo
