// The small operations between products: normalisation, activation, embedding. Each takes one row.
#pragma once

#include "kernels.h"
#include "simd.h"

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
    x = x * inverse * load_up_to(norm.weight + i, left);
    if (norm.bias) x = x + load_up_to(norm.bias + i, left);
    store_up_to(norm.normalised + i, x, left);
  }
}

// silu(gate) * up (Shazeer, GLU variants improve transformer, 2020).
inline void silu_and_mul(const float* gate, const float* up, float* out, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES) {
    const F32x16 g = load_up_to(gate + i, size - i), u = load_up_to(up + i, size - i);
    store_up_to(out + i, g / (set1(1.0f) + exp(zero() - g)) * u, size - i);
  }
}

// One output's weights, out of its panel.
inline void embedding(const PackedWeight& weight, int64_t token_id, float* out) {
  const uint8_t* panel = weight.panel(token_id / PANEL);
  const int64_t lane = token_id % PANEL;
  for (int64_t k = 0; k < weight.num_inputs; ++k) {
    float lanes[LANES];
    if (weight.type == DataType::int8) {
      const int value = panel[k / QUAD * (PANEL * QUAD) + lane * QUAD + k % QUAD];
      out[k] = static_cast<float>(value - 128) * weight.scales[token_id];
    } else if (weight.type == DataType::float32) {
      out[k] = reinterpret_cast<const float*>(panel)[k * PANEL + lane];
    } else if (weight.type == DataType::bfloat16) {
      const uint16_t half = reinterpret_cast<const uint16_t*>(panel)[k / 2 * (2 * PANEL) + lane * 2 + k % 2];
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      __builtin_memcpy(out + k, &bits, sizeof bits);
    } else {
      store(lanes, load_f16(reinterpret_cast<const uint16_t*>(panel) + k * PANEL + lane / LANES * LANES));
      out[k] = lanes[lane % LANES];
    }
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
