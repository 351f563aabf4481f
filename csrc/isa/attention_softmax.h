// Softmax over a context that is reduced chunk by chunk (Milakov and Gimelshein, Online normalizer calculation for softmax,
// 2018). A chunk gives its largest score, the total of its weights e^(score - largest), and the weighted sum of its values;
// two such results merge into one.
#pragma once

#include "../attention_kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr float MINUS_INFINITY = -__builtin_inff();

// The total of a result of which nothing was visible: any negative one.
constexpr float NOTHING_VISIBLE = -1;

// The slots [begin, end) of a chunk that a query at `position` sees, in a row of `num_tokens`.
struct Visible {
  int64_t begin, end;

  OCTAVO_INLINE Visible(int64_t first, int64_t past_last) : begin(first), end(past_last) {}
  OCTAVO_INLINE Visible(const AttentionSpec& spec, int64_t position, int64_t num_tokens, int64_t chunk) {
    const int64_t start = chunk * CHUNK, oldest = spec.kind.first_seen(position) - start;
    const int64_t newest = spec.kind.last_seen(position, num_tokens) - start;
    begin = oldest > 0 ? oldest : 0;
    end = newest + 1 < CHUNK ? newest + 1 : CHUNK;
  }
  OCTAVO_INLINE bool is_empty() const { return begin >= end; }
};

// Lanes [begin, end) of x, and of `outside` elsewhere.
OCTAVO_INLINE F32x16 within(F32x16 x, int64_t begin, int64_t end, F32x16 outside) {
  if (end < LANES) x = first(end > 0 ? static_cast<int>(end) : 0, x, outside);
  if (begin > 0) x = first(begin < LANES ? static_cast<int>(begin) : LANES, outside, x);
  return x;
}

// softcap * tanh(scores / softcap), with tanh(z) = 1 - 2 / (e^2z + 1).
OCTAVO_INLINE F32x16 soft_capped(F32x16 scores, float softcap) {
  const F32x16 cap = set1(softcap), one = set1(1.0f), two = set1(2.0f);
  return cap * (one - two / (exp(two * scores / cap) + one));
}

// Of an int8 cache, [slots] each: the keys' are applied to the scores, the values' to the weights, whose largest is told.
struct Scales {
  const float *keys, *values;
  float* largest_weight;
};

// Turns a query's scores of a chunk into weights, in place, and tells their largest and their total. Slots up to `slots`,
// a multiple of LANES past the visible ones, get a weight of 0; what lay there may have been anything.
//
//   scores  [slots], read and written from the vector on that has the first visible one
//   scales  null where the cache has none
//
// `meanwhile` is called for each vector of slots.
template <class Meanwhile>
__attribute__((noinline)) void softmax_chunk(float* scores, int64_t slots, Visible seen, float softcap,
                                                    const Scales* scales, float* largest, float* total, Meanwhile meanwhile) {
  F32x16 highest = set1(MINUS_INFINITY);
  const int64_t from = seen.begin / LANES * LANES;
  for (int64_t s = from; s < slots; s += LANES) {
    F32x16 part = load(scores + s);
    if (scales) part = part * load(scales->keys + s);
    if (softcap > 0) part = soft_capped(part, softcap);
    part = within(part, seen.begin - s, seen.end - s, set1(MINUS_INFINITY));
    store(scores + s, part);
    highest = max(highest, part);
  }
  const float peak = max_lane(highest);
  F32x16 sum = zero(), heaviest = zero();
  for (int64_t s = from; s < slots; s += LANES) {
    meanwhile();
    F32x16 weights = exp(load(scores + s) - set1(peak));
    sum = sum + weights;
    if (scales) {
      weights = weights * within(load(scales->values + s), seen.begin - s, seen.end - s, zero());
      heaviest = max(weights, heaviest);
    }
    store(scores + s, weights);
  }
  *largest = peak;
  *total = sum_lanes(sum);
  if (scales) *scales->largest_weight = max_lane(heaviest);
}

OCTAVO_INLINE float exp_scalar(float x) {
  float lanes[LANES];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// Merges a chunk's result into that of the chunks before it. `running` and `sums` are [width].
__attribute__((noinline)) inline void merge_chunk(float* running_largest, float* running_total, float* running,
                                                  float largest, float total, const float* sums, int64_t width) {
  if (*running_total < 0) {
    *running_largest = largest;
    *running_total = total;
    for (int64_t d = 0; d < width; d += LANES) store(running + d, load(sums + d));
    return;
  }
  const float highest = largest > *running_largest ? largest : *running_largest;
  const float old_factor = exp_scalar(*running_largest - highest), new_factor = exp_scalar(largest - highest);
  *running_largest = highest;
  *running_total = *running_total * old_factor + total * new_factor;
  for (int64_t d = 0; d < width; d += LANES) {
    store(running + d, fma(load(running + d), set1(old_factor), load(sums + d) * set1(new_factor)));
  }
}

// The end of a softmax: the weighted sums [head_dim], divided by the weights' total.
OCTAVO_INLINE void write_output(const float* running, float total, float* out, int64_t head_dim) {
  const F32x16 divisor = set1(total);
  for (int64_t d = 0; d < head_dim; d += LANES) store_up_to(out + d, load(running + d) / divisor, head_dim - d);
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
