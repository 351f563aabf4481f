// Drawing a token from a row of logits: the passes that see the whole vocabulary. Between them csrc/sampling.cpp decides
// which weights are kept.
#pragma once

#include "../kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// The highest logit; NaN where one is NaN or plus infinity. Minus infinity is a token that a mask forbids.
inline float highest_logit(const float* logits, int64_t size) {
  const F32x16 least = set1(-__FLT_MAX__);
  F32x16 highest = set1(-__builtin_inff()), odd = zero();
  for (int64_t i = 0; i < size; i += LANES) {
    const int64_t left = size - i;
    F32x16 x = load_up_to(logits + i, left);
    if (left < LANES) x = first(static_cast<int>(left), x, set1(-__builtin_inff()));
    const F32x16 finite = max(least, x);
    odd = odd + (finite - finite);
    highest = max(x, highest);
  }
  return max_lane(highest) + sum_lanes(odd);
}

// weights[i] = e^((logits[i] - highest) / temperature), padded with zeros to whole vectors; returns their sum. `maxima`
// [vectors / VECTORS_A_MAXIMUM, rounded up][LANES] gets the highest weight of each lane in so many vectors.
inline double weigh(const float* logits, int64_t size, float highest, float temperature, float* weights, float* maxima) {
  const F32x16 centre = set1(highest), inverse = set1(1.0f / temperature);
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += VECTORS_A_MAXIMUM * LANES, maxima += LANES) {
    const int64_t end = begin + VECTORS_A_MAXIMUM * LANES < size ? begin + VECTORS_A_MAXIMUM * LANES : size;
    F32x16 sum = zero(), most = zero();
    for (int64_t i = begin; i < end; i += LANES) {
      F32x16 weight = exp((load_up_to(logits + i, end - i) - centre) * inverse);
      if (end - i < LANES) weight = first(static_cast<int>(end - i), weight, zero());
      store(weights + i, weight);
      sum = sum + weight;
      most = max(most, weight);
    }
    store(maxima, most);
    total += static_cast<double>(sum_lanes(sum));
  }
  return total;
}

// The weights of at least `floor`, in their order; returns how many they are.
inline int64_t keep_at_least(const float* weights, int64_t size, float floor, float* kept) {
  const F32x16 bound = set1(floor);
  int64_t count = 0;
  for (int64_t i = 0; i < size; i += LANES) {
    for (uint32_t bits = which_at_least(load(weights + i), bound); bits; bits &= bits - 1) {
      kept[count++] = weights[i + __builtin_ctz(bits)];
    }
  }
  return count;
}

// A permutation of the 32-bit integers: `_mix` of src/octavo/kernels/sampling/noise.py, as all of this noise.
OCTAVO_INLINE I32x16 mix(I32x16 words) {
  words = (words ^ shift_right<16>(words)) * set1_i32(0x7feb352d);
  words = (words ^ shift_right<15>(words)) * set1_i32(static_cast<int32_t>(0x846ca68b));
  return words ^ shift_right<16>(words);
}

// Of sixteen tokens from `first_token` on, a uniform number each, above 0 and below 1.
OCTAVO_INLINE F32x16 uniforms(int64_t first_token, I32x16 factor, I32x16 offset) {
  const I32x16 tokens = mix(iota() + set1_i32(static_cast<int32_t>(first_token)));
  const F32x16 numbers = unsigned_to_float(mix(tokens * factor + offset));
  return min(numbers * set1(1.0f / 4294967296.0f) + set1(1.0f / 8589934592.0f), set1(1.0f - __FLT_EPSILON__ / 2));
}

// The token with the highest weight / noise of those of at least `floor`, which is above 0; the lowest of equals. The noise
// is -log(1 - u) of a uniform number u, which is at least u: where weight / u is below the highest so far no logarithm is
// taken.
inline int64_t race(const float* weights, int64_t size, float floor, const uint32_t* key) {
  constexpr float MARGIN = 1.0f + 4 * __FLT_EPSILON__;  // for the rounding of the comparison's two sides
  const F32x16 bound = set1(floor);
  const I32x16 factor = set1_i32(static_cast<int32_t>(key[0] | 1)), offset = set1_i32(static_cast<int32_t>(key[1]));
  float highest = 0;
  int64_t winner = 0;
  for (int64_t i = 0; i < size; i += LANES) {
    const F32x16 weight = load(weights + i);
    uint32_t bits = which_at_least(weight, bound);
    if (!bits) continue;
    const F32x16 uniform = uniforms(i, factor, offset);
    bits &= which_at_least(weight * set1(MARGIN), uniform * set1(highest));
    if (!bits) continue;
    float numbers[LANES];
    store(numbers, uniform);
    for (; bits; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      const float time = weights[i + lane] / -__builtin_log1pf(-numbers[lane]);
      if (time > highest) {
        highest = time;
        winner = i + lane;
      }
    }
  }
  return winner;
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
