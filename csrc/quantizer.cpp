#include "quantizer.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace octavo {
namespace {

// What a task quantizes: enough for some hundred microseconds.
constexpr int64_t NUMBERS_A_TASK = 1 << 16;
// A row is padded with zeros, so that an instruction set's groups, one in each lane, are whole.
constexpr int64_t PADDED_TO = STEP * LANES;
constexpr uint8_t LOW_HALF = 15;

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

}  // namespace octavo
