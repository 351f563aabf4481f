#include "quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace octavo {
namespace {

// What a task quantizes: enough for some hundred microseconds.
constexpr int64_t NUMBERS_A_TASK = 1 << 16;
// A row is padded with zeros, so that an instruction set's groups, one in each lane, are whole.
constexpr int64_t PADDED_TO = STEP * LANES;
constexpr uint8_t LOW_HALF = 15;
// As there: float16's exponent for a row's largest scale.
constexpr int LARGEST_EXPONENT = 14;
// As LEAST_ROW_EXPONENT there.
constexpr int LEAST_ROW_EXPONENT = -126;

// The power of two that brings a row's scales into float16's range.
float row_scale_for(float largest) {
  int exponent;
  std::frexp(largest, &exponent);  // largest is under 2^exponent
  return largest > 0 ? std::ldexp(1.0f, std::max(exponent - 1 - LARGEST_EXPONENT, LEAST_ROW_EXPONENT)) : 1.0f;
}

// `each(row, widened)` for every row, on all threads.
template <class Each>
void for_each_row(const KernelTable& kernels, ThreadPool& threads, const WeightRows& rows, const Each& each) {
  const int64_t rows_a_task = std::max<int64_t>(1, NUMBERS_A_TASK / std::max<int64_t>(1, rows.num_inputs));
  threads.for_each((rows.num_rows + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
    std::vector<float> widened(static_cast<size_t>(round_up(rows.num_inputs, PADDED_TO)));
    const int64_t end = std::min(rows.num_rows, (task + 1) * rows_a_task);
    for (int64_t row = task * rows_a_task; row < end; ++row) {
      kernels.quantizer.widen(rows.type, rows.row(row), rows.num_inputs, widened.data());
      each(row, widened.data());
    }
  });
}

}  // namespace

void quantize_to_int8(const KernelTable& kernels, ThreadPool& threads, const WeightRows& rows, int8_t* values, float* scales) {
  for_each_row(kernels, threads, rows, [&](int64_t row, const float* widened) {
    kernels.quantizer.to_int8(widened, rows.num_inputs, values + row * rows.num_inputs, scales + row);
  });
}

void quantize_to_int4(const KernelTable& kernels, ThreadPool& threads, const WeightRows& rows, uint8_t* codes, float* scales,
                      float* minimums) {
  const int64_t num_groups = (rows.num_inputs + STEP - 1) / STEP, row_bytes = (rows.num_inputs + 1) / 2;
  for_each_row(kernels, threads, rows, [&](int64_t row, const float* widened) {
    std::vector<uint8_t> whole(static_cast<size_t>(num_groups * STEP / 2));
    kernels.quantizer.to_int4(widened, num_groups, whole.data(), scales + row * num_groups, minimums + row * num_groups);
    if (rows.num_inputs % 2) whole[static_cast<size_t>(row_bytes - 1)] &= LOW_HALF;
    std::memcpy(codes + row * row_bytes, whole.data(), static_cast<size_t>(row_bytes));
  });
}

void fill_groups(const KernelTable& kernels, ThreadPool& threads, const GroupedRows& rows, const GroupedWeightRows& weight) {
  const int64_t rows_a_task = std::max<int64_t>(1, NUMBERS_A_TASK / std::max<int64_t>(1, rows.code_bytes));
  threads.for_each((rows.num_rows + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
    const int64_t end = std::min(rows.num_rows, (task + 1) * rows_a_task);
    for (int64_t row = task * rows_a_task; row < end; ++row) {
      const float *scales = rows.scales + row * rows.scale_stride, *minimums = rows.minimums + row * rows.minimum_stride;
      float largest = kernels.quantizer.largest(scales, rows.num_groups);
      if (rows.minimums) largest = std::max(largest, kernels.quantizer.largest(minimums, rows.num_groups));
      const float row_scale = weight.row_scales[row] = row_scale_for(largest);
      const int64_t first = row * rows.num_groups;
      kernels.quantizer.to_float16(scales, row_scale, rows.num_groups, weight.scales + first);
      if (rows.minimums) kernels.quantizer.to_float16(minimums, row_scale, rows.num_groups, weight.minimums + first);
      std::memcpy(weight.codes + row * rows.code_bytes, rows.codes + row * rows.code_stride,
                  static_cast<size_t>(rows.code_bytes));
    }
  });
}

}  // namespace octavo
