// The small operations between products: normalisation, activation, embedding. Each takes one row.
#pragma once

#include "../kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// The mean of squared distances from `mean`, of a row.
inline float mean_square(const float* row, int64_t size, float mean) {
  F32x16 squares = zero();
  for (int64_t i = 0; i < size; i += LANES) {
    const F32x16 distance = load_up_to(row + i, size - i) - set1(mean);
    const F32x16 x = size - i >= LANES ? distance : first(static_cast<int>(size - i), distance, zero());
    squares = fma(x, x, squares);
  }
  return sum_lanes(squares) / static_cast<float>(size);
}

// After the residual sum: Ba et al., Layer Normalization, 2016, or Zhang and Sennrich, Root Mean Square Layer
// Normalization, 2019.
inline void norm(const Norm& norm) {
  F32x16 squares = zero(), total = zero();
  for (int64_t i = 0; i < norm.size; i += LANES) {
    const int64_t left = norm.size - i;
    F32x16 x = load_up_to(norm.hidden + i, left);
    if (norm.residual) x = x + load_up_to(norm.residual + i, left);
    store_up_to(norm.sum + i, x, left);
    squares = fma(x, x, squares);
    total = total + x;
  }
  const float size = static_cast<float>(norm.size);
  const float mean = norm.centred ? sum_lanes(total) / size : 0.0f;
  const float square = norm.centred ? mean_square(norm.sum, norm.size, mean) : sum_lanes(squares) / size;
  const F32x16 inverse = set1(1.0f / __builtin_sqrtf(square + norm.eps)), centre = set1(mean);
  for (int64_t i = 0; i < norm.size; i += LANES) {
    const int64_t left = norm.size - i;
    F32x16 x = load_up_to(norm.sum + i, left);
    if (norm.centred) x = x - centre;
    x = x * inverse;
    if (norm.weight) x = x * load_up_to(norm.weight + i, left);
    if (norm.bias) x = x + load_up_to(norm.bias + i, left);
    store_up_to(norm.normalised + i, x, left);
  }
}

// x times the logistic function of z.
OCTAVO_INLINE F32x16 gated(F32x16 x, F32x16 z) { return x / (set1(1.0f) + exp(zero() - z)); }

// The order in `max` lets NaN through.
OCTAVO_INLINE F32x16 relu(F32x16 x) { return max(zero(), x); }
OCTAVO_INLINE F32x16 silu(F32x16 x) { return gated(x, x); }
// Hendrycks and Gimpel, Gaussian error linear units, 2016: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
OCTAVO_INLINE F32x16 gelu_tanh(F32x16 x) {
  const F32x16 cubic = fma(x * x, set1(0.044715f), set1(1.0f)) * x;
  return gated(x, cubic * set1(1.5957691216057308f));
}
// x / 2 * (1 + erf(x / sqrt 2)) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt 2). erfc is within 1.5e-7: Abramowitz and Stegun,
// Handbook of mathematical functions, 7.1.26. Past 20 it is 0 in float32.
OCTAVO_INLINE F32x16 gelu(F32x16 x) {
  const F32x16 size = min(abs(x), set1(20.0f));
  const F32x16 t = set1(1.0f) / fma(size, set1(0.3275911f * 0.70710678118654752f), set1(1.0f));
  F32x16 p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  return relu(x) - size * set1(0.5f) * p * t * exp(size * size * set1(-0.5f));
}

template <class Function>
inline void activate(Function function, const float* x, const float* factor, float* out, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES) {
    F32x16 y = function(load_up_to(x + i, size - i));
    if (factor) y = y * load_up_to(factor + i, size - i);
    store_up_to(out + i, y, size - i);
  }
}

inline void activation(Activation kind, const float* x, const float* factor, float* out, int64_t size) {
  switch (kind) {
    case Activation::relu:
      return activate([](F32x16 a) { return relu(a); }, x, factor, out, size);
    case Activation::gelu:
      return activate([](F32x16 a) { return gelu(a); }, x, factor, out, size);
    case Activation::gelu_tanh:
      return activate([](F32x16 a) { return gelu_tanh(a); }, x, factor, out, size);
    case Activation::silu:
      return activate([](F32x16 a) { return silu(a); }, x, factor, out, size);
  }
}

inline void add(const float* a, const float* b, float* out, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES) {
    store_up_to(out + i, load_up_to(a + i, size - i) + load_up_to(b + i, size - i), size - i);
  }
}

// Vectors that are compared side by side: a chain of comparisons alone would wait for each of them.
constexpr int64_t CHAINS = 4;
// Values among which the highest is found before its place is looked for.
constexpr int64_t SEARCHED_AT_ONCE = 16 * CHAINS * LANES;

// The highest of up to SEARCHED_AT_ONCE values; `odd` becomes NaN where one of them is not finite.
inline float highest_of(const float* x, int64_t size, F32x16& odd) {
  const F32x16 lowest = set1(-__builtin_inff());
  F32x16 maxima[CHAINS] = {lowest, lowest, lowest, lowest}, differences[CHAINS] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + CHAINS * LANES <= size; i += CHAINS * LANES) {
    for (int64_t chain = 0; chain < CHAINS; ++chain) {
      const F32x16 values = load(x + i + chain * LANES);
      differences[chain] = differences[chain] + (values - values);
      maxima[chain] = max(maxima[chain], values);
    }
  }
  for (; i < size; i += LANES) {
    const F32x16 values = load_up_to(x + i, size - i);
    differences[0] = differences[0] + (values - values);
    maxima[0] = max(maxima[0], size - i >= LANES ? values : first(static_cast<int>(size - i), values, lowest));
  }
  odd = odd + ((differences[0] + differences[1]) + (differences[2] + differences[3]));
  return max_lane(max(max(maxima[0], maxima[1]), max(maxima[2], maxima[3])));
}

inline Peak peak(const float* x, int64_t size) {
  F32x16 odd = zero();
  Peak found;
  int64_t begin_of_highest = 0;
  for (int64_t begin = 0; begin < size; begin += SEARCHED_AT_ONCE) {
    const float highest = highest_of(x + begin, size - begin < SEARCHED_AT_ONCE ? size - begin : SEARCHED_AT_ONCE, odd);
    if (highest > found.value) {
      found.value = highest;
      begin_of_highest = begin;
    }
  }
  found.is_finite = sum_lanes(odd) == 0.0f;
  if (!found.is_finite) return found;
  found.place = begin_of_highest;
  while (x[found.place] != found.value) ++found.place;
  return found;
}

// The number of an input and an output of a panel, of a grouped weight.
inline int grouped_number(const PackedWeight& weight, const uint8_t* block, int64_t input, int64_t lane) {
  const int64_t quad = input / QUAD, place = lane * QUAD + input % QUAD;
  if (weight.bits == 8) return block[quad * (PANEL * QUAD) + place] - INT8_OFFSET;
  const uint8_t codes = block[quad / 2 * (PANEL * QUAD) + place];
  return weight.table[quad % 2 == 0 ? codes & 15 : codes >> 4] - INT8_OFFSET;
}

inline float half_at(const uint8_t* p, int64_t index) {
  float lanes[LANES];
  store(lanes, load_f16(reinterpret_cast<const uint16_t*>(p) + index / LANES * LANES));
  return lanes[index % LANES];
}

inline void grouped_embedding(const PackedWeight& weight, int64_t row, float scale, float* out) {
  const int64_t lane = row % PANEL, scales_at = weight.block_inputs() / STEP * weight.step_bytes();
  for (int64_t k = 0; k < weight.num_inputs; ++k) {
    const uint8_t* block = weight.panel(row / PANEL) + k / weight.block_inputs() * weight.block_bytes();
    const int64_t input = k % weight.block_inputs(), at = input / weight.group * PANEL + lane;
    float value = static_cast<float>(grouped_number(weight, block, input, lane)) * half_at(block + scales_at, at);
    if (weight.has_minimums) value -= half_at(block + scales_at, weight.groups_a_block() * PANEL + at);
    out[k] = value * weight.scales[row] * scale;
  }
}

// One output's weights, out of its panel.
inline void embedding(const PackedWeight& weight, int64_t row, float scale, float* out) {
  if (weight.is_grouped()) return grouped_embedding(weight, row, scale, out);
  const uint8_t* panel = weight.panel(row / PANEL);
  const int64_t lane = row % PANEL;
  for (int64_t k = 0; k < weight.num_inputs; ++k) {
    float lanes[LANES];
    if (weight.type == DataType::int8) {
      const int value = panel[k / QUAD * (PANEL * QUAD) + lane * QUAD + k % QUAD];
      out[k] = static_cast<float>(value - INT8_OFFSET) * weight.scales[row];
    } else if (weight.type == DataType::float32) {
      out[k] = reinterpret_cast<const float*>(panel)[k * PANEL + lane];
    } else if (weight.type == DataType::bfloat16) {
      const uint16_t half = reinterpret_cast<const uint16_t*>(panel)[k / PAIR * (PANEL * PAIR) + lane * PAIR + k % PAIR];
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      __builtin_memcpy(out + k, &bits, sizeof bits);
    } else {
      store(lanes, load_f16(reinterpret_cast<const uint16_t*>(panel) + k * PANEL + lane / LANES * LANES));
      out[k] = lanes[lane % LANES];
    }
    out[k] *= scale;
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
