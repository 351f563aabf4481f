// The small operations between products: normalisation, activation, embedding. Each takes one row.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, after the residual sum.
inline void rms_norm(const RmsNorm& norm) {
  F32x16 squares = zero();
  for (int64_t i = 0; i < norm.size; i += LANES) {
    const int left = static_cast<int>(norm.size - i < LANES ? norm.size - i : LANES);
    F32x16 x = left == LANES ? load(norm.hidden + i) : load_first(norm.hidden + i, left);
    if (norm.residual) {
      x = x + (left == LANES ? load(norm.residual + i) : load_first(norm.residual + i, left));
    }
    if (left == LANES) {
      store(norm.sum + i, x);
    } else {
      store_first(norm.sum + i, x, left);
    }
    squares = fma(x, x, squares);
  }
  const float mean = sum_lanes(squares) / static_cast<float>(norm.size);
  const F32x16 inverse = set1(1.0f / __builtin_sqrtf(mean + norm.eps));
  for (int64_t i = 0; i < norm.size; i += LANES) {
    const int64_t left = norm.size - i;
    if (left >= LANES) {
      store(norm.normalised + i, load(norm.sum + i) * inverse * load(norm.weight + i));
    } else {
      const int n = static_cast<int>(left);
      store_first(norm.normalised + i, load_first(norm.sum + i, n) * inverse * load_first(norm.weight + i, n), n);
    }
  }
}

// silu(gate) * up (Shazeer, GLU variants improve transformer, 2020).
inline void silu_and_mul(const float* gate, const float* up, float* out, int64_t size) {
  for (int64_t i = 0; i < size; i += LANES) {
    const int left = static_cast<int>(size - i < LANES ? size - i : LANES);
    const F32x16 g = left == LANES ? load(gate + i) : load_first(gate + i, left);
    const F32x16 u = left == LANES ? load(up + i) : load_first(up + i, left);
    const F32x16 product = g / (set1(1.0f) + exp(zero() - g)) * u;
    if (left == LANES) {
      store(out + i, product);
    } else {
      store_first(out + i, product, left);
    }
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
