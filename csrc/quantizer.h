// Quantizing weights while a model loads, as src/octavo/kernels/quantizing.py defines it.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "threads.h"

namespace octavo {

// Rows of a matrix in floating point: [num_rows, num_inputs], `stride` numbers apart.
struct WeightRows {
  DataType type;  // float32, bfloat16 or float16
  int64_t num_rows;
  int64_t num_inputs;
  int64_t stride;
  const void* values;

  const void* row(int64_t index) const {
    return static_cast<const uint8_t*>(values) + index * stride * (type == DataType::float32 ? 4 : 2);
  }
};

// values [num_rows, num_inputs] int8 and scales [num_rows].
void quantize_to_int8(const KernelTable& kernels, ThreadPool& threads, const WeightRows& rows, int8_t* values, float* scales);

// 4 bits with a minimum, in groups of STEP inputs: codes [num_rows, ceil(num_inputs / 2)], the first of two in the low half
// of their byte; scales and minimums [num_rows, groups].
void quantize_to_int4(const KernelTable& kernels, ThreadPool& threads, const WeightRows& rows, uint8_t* codes, float* scales,
                      float* minimums);

}  // namespace octavo
