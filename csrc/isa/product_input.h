// Activations in the forms that products take: bfloat16, and int8 with a scale for each group of inputs.
#pragma once

#include "../kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// `store_quantized` writes sixteen activations, from -127 to 127, as an int8 product takes them; the sum of what `start_from`
// gives, times START_FACTOR, is the number that the integer sums over them start at.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// Each quad's four magnitudes, then four bytes that, by exclusive or, make of unsigned weights w + 128 signed ones: w for
// an activation of 0 or more, -w - 1 for a negative one. Each negative one misses its magnitude: sums start there.
constexpr Form INT8_FORM = Form::int8_split, GROUPED_FORM = Form::grouped_split;
using Quantized = uint16_t;
OCTAVO_INLINE void store_quantized(uint16_t* p, I32x16 a) {
  const __m128i values = to_i8(a);
  const __m128i magnitudes = _mm_abs_epi8(values), is_negative = _mm_cmpgt_epi8(_mm_setzero_si128(), values);
  const __m128i signs = _mm_xor_si128(is_negative, _mm_set1_epi8(static_cast<char>(INT8_OFFSET)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(magnitudes, signs));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm_unpackhi_epi32(magnitudes, signs));
}
constexpr int32_t START_FACTOR = -1;
#define OCTAVO_HAS_CODE_PRODUCTS
OCTAVO_INLINE I32x16 start_from(I32x16 a) {
  const __m256i zeros = _mm256_setzero_si256();
  return {_mm256_min_epi32(a.lo, zeros), _mm256_min_epi32(a.hi, zeros)};
}
#else
// As they are. A weight is stored plus INT8_OFFSET, which the sum starts without.
constexpr Form INT8_FORM = Form::int8, GROUPED_FORM = Form::grouped;
using Quantized = int8_t;
OCTAVO_INLINE void store_quantized(int8_t* p, I32x16 a) { store_i8(p, a); }
constexpr int32_t START_FACTOR = -INT8_OFFSET;
OCTAVO_INLINE I32x16 start_from(I32x16 a) { return a; }
#endif

// x [size] float32 -> values [padded_size] bfloat16, zeros at its end.
inline void to_bfloat16(const float* x, int64_t size, uint16_t* values, int64_t padded_size) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store_bf16(values + i, load(x + i));
  for (; i < padded_size; i += LANES) {
    uint16_t last[LANES];
    const int left = static_cast<int>(size - i > 0 ? size - i : 0);
    store_bf16(last, load_first(x + i, left));
    for (int64_t j = i; j < padded_size && j < i + LANES; ++j) values[j] = last[j - i];
  }
}

// A row's activations in a step, as grouped products take them.
struct StepActivations {
  StepScales scales;
#if defined(OCTAVO_HAS_CODE_PRODUCTS)
  PlainStep plain;
#endif
  Quantized values[STEP];
};

// As StepScales::scale has to be.
OCTAVO_INLINE float without_last_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits &= SCALE_BITS;
  __builtin_memcpy(&x, &bits, sizeof bits);
  return x;
}

// One group of up to GROUP numbers, padded to GROUP with zeros.
OCTAVO_INLINE void quantize_group(const float* x, int64_t size, Quantized* values, float* scale, int32_t* start) {
  F32x16 parts[GROUP / LANES];
  F32x16 largest = zero();
  for (int64_t i = 0; i < GROUP / LANES; ++i) {
    const int64_t left = size - i * LANES;
    parts[i] = left >= LANES ? load(x + i * LANES) : load_first(x + i * LANES, left > 0 ? static_cast<int>(left) : 0);
    largest = max(largest, abs(parts[i]));
  }
  const float range = max_lane(largest);
  const F32x16 inverse = inverse_of(range, INT8_LARGEST);
  I32x16 sum = set1_i32(0);
  for (int64_t i = 0; i < GROUP / LANES; ++i) {
    const I32x16 rounded = nearest(parts[i] * inverse);
    store_quantized(values + i * LANES, rounded);
    sum = sum + start_from(rounded);
  }
  *start = START_FACTOR * sum_lanes(sum);
  *scale = range / INT8_LARGEST;
}

// One step's activations, up to STEP, padded with zeros.
OCTAVO_INLINE void quantize_step(const float* x, int64_t size, StepActivations* out) {
  constexpr int HALVES = STEP / HALF_STEP;
  F32x16 parts[HALVES];
  for (int half = 0; half < HALVES; ++half) {
    const int64_t left = size - half * LANES;
    parts[half] = left > 0 ? load_up_to(x + half * LANES, left) : zero();
  }
  const float range = max_lane(max(abs(parts[0]), abs(parts[1])));
  const F32x16 inverse = inverse_of(range, INT8_LARGEST);
  StepScales& scales = out->scales;
  scales.scale = without_last_bits(range / INT8_LARGEST);
  scales.shift = -SUM_OFFSET * scales.scale;
  int32_t sums[HALVES], starts[HALVES];
  for (int half = 0; half < HALVES; ++half) {
    const I32x16 rounded = nearest(parts[half] * inverse);
    store_quantized(out->values + half * LANES, rounded);
    sums[half] = sum_lanes(rounded);
#if defined(OCTAVO_HAS_CODE_PRODUCTS)
    store_i8(out->plain.values + half * LANES, rounded);
    out->plain.half_sums[half] = sums[half];
#endif
    starts[half] = START_FACTOR * sum_lanes(start_from(rounded));
    scales.half_starts[half] = SUM_OFFSET_BITS + starts[half];
    scales.minus_half_sums[half] = -static_cast<float>(sums[half]) * scales.scale;
  }
  scales.start = SUM_OFFSET_BITS + starts[0] + starts[1];
  scales.minus_sum = -static_cast<float>(sums[0] + sums[1]) * scales.scale;
}

// x [size] float32 -> values [num_steps] StepActivations.
inline void quantize_steps(const float* x, int64_t size, uint8_t* values) {
  auto* steps = reinterpret_cast<StepActivations*>(values);
  for (int64_t i = 0; i < size; i += STEP) {
    quantize_step(x + i, size - i < STEP ? size - i : STEP, steps + i / STEP);
  }
}

// x [size] float32 -> values [num_groups][GROUP] Quantized, scales [num_groups], starts [num_groups].
inline void quantize(const float* x, int64_t size, uint8_t* values, float* scales, int32_t* starts) {
  for (int64_t i = 0; i < size; i += GROUP) {
    quantize_group(x + i, size - i < GROUP ? size - i : GROUP, reinterpret_cast<Quantized*>(values) + i,
                   scales + i / GROUP, starts + i / GROUP);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
