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

// Rows in groups as a file has them or as they were quantized: codes [num_rows, code_bytes], scales and minimums
// [num_rows, num_groups], rows so many numbers apart. No minimums: null.
struct GroupedRows {
  int64_t num_rows, code_bytes, num_groups;
  const uint8_t* codes;
  int64_t code_stride;
  const float* scales;
  int64_t scale_stride;
  const float* minimums;
  int64_t minimum_stride;
};

// The same rows of a weight in groups, as src/octavo/kernels/grouped.py has it: one after the other, scales and minimums in
// float16, and row_scales [num_rows].
struct GroupedWeightRows {
  uint8_t* codes;
  uint16_t* scales;
  uint16_t* minimums;
  float* row_scales;
};

void fill_groups(const KernelTable& kernels, ThreadPool& threads, const GroupedRows& rows, const GroupedWeightRows& weight);

}  // namespace octavo
