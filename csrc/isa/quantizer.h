// Quantizing rows of weights: src/octavo/kernels/quantizing.py.
#pragma once

#include "../kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

template <class Element>
inline void widen_row(const typename Element::Stored* row, int64_t size, float* out) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store(out + i, Element::load16(row + i));
  if (i == size) return;
  typename Element::Stored last[LANES] = {};
  for (int64_t j = i; j < size; ++j) last[j - i] = row[j];
  store_first(out + i, Element::load16(last), static_cast<int>(size - i));
}

inline void widen(DataType type, const void* row, int64_t size, float* out) {
  if (type == DataType::float32) return widen_row<Float32>(static_cast<const float*>(row), size, out);
  const auto* halves = static_cast<const uint16_t*>(row);
  return type == DataType::bfloat16 ? widen_row<BFloat16>(halves, size, out) : widen_row<Float16>(halves, size, out);
}

inline float largest_magnitude(const float* values, int64_t size) {
  F32x16 largest = zero();
  for (int64_t i = 0; i < size; i += LANES) largest = max(largest, abs(load_up_to(values + i, size - i)));
  return max_lane(largest);
}

inline void quotients_to_float16(const float* values, float divisor, int64_t size, uint16_t* out) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store_f16(out + i, load(values + i) / set1(divisor));
  if (i == size) return;
  uint16_t last[LANES];
  store_f16(last, load_up_to(values + i, size - i) / set1(divisor));
  for (int64_t j = i; j < size; ++j) out[j] = last[j - i];
}

// Rounded to nearest even.
inline void weights_to_int8(const float* row, int64_t size, int8_t* values, float* scale) {
  const float range = largest_magnitude(row, size);
  const F32x16 inverse = inverse_of(range, INT8_LARGEST);
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store_i8(values + i, load(row + i) * inverse);
  if (i < size) {
    int8_t last[LANES];
    store_i8(last, load_up_to(row + i, size - i) * inverse);
    for (int64_t j = i; j < size; ++j) values[j] = last[j - i];
  }
  *scale = range / INT8_LARGEST;
}

// Sixteen groups of STEP numbers, one in each lane: a group's sums need no other lane.
struct LaneGroups {
  F32x16 unit;           // the largest magnitude, of which all that follows are parts
  F32x16 values[STEP];   // from the middle between the group's smallest and largest number
  F32x16 weights[STEP];  // a sum of 1
  F32x16 middle, span;
  F32x16 mean;           // of the values, weighted
  F32x16 square;         // of their distances from it, the same
};

// A group's numbers are rounded to steps of `by`: code = value / by + MIDDLE_CODE. What fits the codes best is
// (code - MIDDLE_CODE) * scale + offset, with a squared, weighted error.
struct Rounding {
  F32x16 by, scale, offset, error;
};
constexpr float LARGEST_CODE = 15.0f, MIDDLE_CODE = LARGEST_CODE / 2;

// As SHRINKS and LEAST_VARIANCE there.
constexpr float SHRINKS[] = {0.94f, 0.88f, 0.82f};  // but for 1
constexpr float LEAST_VARIANCE = 1e-3f;

// 1 / x where x is at least `least`, else 0.
OCTAVO_INLINE F32x16 inverse_from(float least, F32x16 x) {
  return where_at_least(x, set1(least), set1(1.0f) / max(x, set1(least)));
}

// Codes are whole numbers from 0 to LARGEST_CODE.
struct Rounder {
  F32x16 inverse;
  explicit OCTAVO_INLINE Rounder(F32x16 by) : inverse(inverse_from(__FLT_MIN__, by)) {}
  OCTAVO_INLINE F32x16 code(F32x16 value) const {
    return min(max(round(value * inverse + set1(MIDDLE_CODE)), zero()), set1(LARGEST_CODE));
  }
};

// `row` has a group after the other, `groups` one in each lane.
inline void load_groups(const float* row, LaneGroups& groups) {
  float numbers[STEP][LANES];
  for (int64_t lane = 0; lane < LANES; ++lane) {
    for (int64_t i = 0; i < STEP; ++i) numbers[i][lane] = row[lane * STEP + i];
  }
  F32x16 low = load(numbers[0]), high = low;
  for (int64_t i = 1; i < STEP; ++i) {
    low = min(low, load(numbers[i]));
    high = max(high, load(numbers[i]));
  }
  groups.unit = max(abs(low), abs(high));
  const F32x16 inverse = inverse_from(__FLT_MIN__, groups.unit);
  groups.span = high * inverse - low * inverse;
  groups.middle = (low * inverse + high * inverse) * set1(0.5f);
  F32x16 squares = zero();
  for (int64_t i = 0; i < STEP; ++i) {
    groups.values[i] = load(numbers[i]) * inverse;
    squares = fma(groups.values[i], groups.values[i], squares);
  }
  const F32x16 typical = sqrt(squares * set1(1.0f / STEP));
  F32x16 total = zero();
  for (int64_t i = 0; i < STEP; ++i) {
    groups.weights[i] = abs(groups.values[i]) + typical;
    groups.values[i] = groups.values[i] - groups.middle;
    total = total + groups.weights[i];
  }
  const F32x16 share = inverse_from(__FLT_MIN__, total);
  groups.mean = zero();
  for (int64_t i = 0; i < STEP; ++i) {
    groups.weights[i] = groups.weights[i] * share;
    groups.mean = fma(groups.weights[i], groups.values[i], groups.mean);
  }
  groups.square = zero();
  for (int64_t i = 0; i < STEP; ++i) {
    const F32x16 distance = groups.values[i] - groups.mean;
    groups.square = fma(groups.weights[i] * distance, distance, groups.square);
  }
}

// Rounds, then fits scale and offset to the codes by least squares.
inline Rounding rounded(const LaneGroups& groups, F32x16 by) {
  const Rounder rounder(by);
  F32x16 mean_step = zero(), square = zero(), product = zero();
  for (int64_t i = 0; i < STEP; ++i) {
    const F32x16 step = rounder.code(groups.values[i]) - set1(MIDDLE_CODE);
    const F32x16 weighted = groups.weights[i] * step;
    mean_step = mean_step + weighted;
    square = fma(weighted, step, square);
    product = fma(weighted, groups.values[i] - groups.mean, product);
  }
  const F32x16 scale = product * inverse_from(LEAST_VARIANCE, square - mean_step * mean_step);
  return {by, scale, groups.mean - scale * mean_step, groups.square - scale * product};
}

// Of each group the better one, the first where they are as good.
inline Rounding better(const Rounding& one, const Rounding& other) {
  const auto of = [&](F32x16 old, F32x16 now) { return where_less(other.error, one.error, now, old); };
  return {of(one.by, other.by), of(one.scale, other.scale), of(one.offset, other.offset), min(other.error, one.error)};
}

inline Rounding best_rounding(const LaneGroups& groups) {
  Rounding best = rounded(groups, groups.span * set1(1 / LARGEST_CODE));
  for (const float part : SHRINKS) best = better(best, rounded(groups, groups.span * set1(part / LARGEST_CODE)));
  return best;
}

// The bytes of two codes each, of `count` groups one after the other: [count][STEP / 2].
inline void store_codes(const LaneGroups& groups, F32x16 by, int64_t count, uint8_t* codes) {
  constexpr float HIGH_HALF = 16.0f;
  const Rounder rounder(by);
  for (int64_t i = 0; i < STEP / 2; ++i) {
    // Two codes are up to 255: INT8_OFFSET brings them into int8's range, and out of it.
    const F32x16 pair = fma(rounder.code(groups.values[2 * i + 1]), set1(HIGH_HALF), rounder.code(groups.values[2 * i]));
    int8_t bytes[LANES];
    store_i8(bytes, pair - set1(INT8_OFFSET));
    for (int64_t lane = 0; lane < count; ++lane) codes[lane * (STEP / 2) + i] = static_cast<uint8_t>(bytes[lane] + INT8_OFFSET);
  }
}

inline void weights_to_int4(const float* row, int64_t num_groups, uint8_t* codes, float* scales, float* minimums) {
  for (int64_t first = 0; first < num_groups; first += LANES) {
    const int64_t count = num_groups - first < LANES ? num_groups - first : LANES;
    LaneGroups groups;
    load_groups(row + first * STEP, groups);
    const Rounding best = best_rounding(groups);
    store_codes(groups, best.by, count, codes + first * (STEP / 2));
    const F32x16 minimum = best.scale * set1(MIDDLE_CODE) - best.offset - groups.middle;
    store_up_to(scales + first, best.scale * groups.unit, count);
    store_up_to(minimums + first, minimum * groups.unit, count);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
