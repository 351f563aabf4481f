// Operations that go over a step's tokens one by one.
#pragma once

#include <algorithm>

#include "../program.h"

namespace octavo {

// Brings a row nearer that other threads have just written in parts.
inline void fetch_row(const float* row, int64_t width) {
  constexpr int64_t FLOATS_A_LINE = 64 / sizeof(float);
  for (int64_t i = 0; i < width; i += FLOATS_A_LINE) __builtin_prefetch(row + i);
}

// Fills a row of the form that the buffer's products take, where it is not float32.
inline void convert_row(const KernelTable& kernels, Buffer& buffer, int64_t row) {
  const float* x = buffer.data + row * buffer.width;
  uint8_t* values = buffer.values + row * buffer.values_stride;
  if (buffer.form == Form::bfloat16) {
    kernels.to_bfloat16(x, buffer.width, reinterpret_cast<uint16_t*>(values), buffer.values_stride / 2);
  } else if (buffer.is_grouped()) {
    kernels.quantize_steps(x, buffer.width, values);
  } else if (buffer.form != Form::float32) {
    const int64_t groups = row * buffer.num_groups();
    kernels.quantize(x, buffer.width, values, buffer.scales + groups, buffer.starts + groups);
  }
}

// Rows one by one, in equal shares for the threads.
class RowOp : public Op {
 public:
  void prepare(const Step& step, int num_threads) override {
    step_ = &step;
    num_rows_ = step.num_tokens;
    num_tasks_ = std::min<int64_t>(num_rows_, num_threads);
  }
  int64_t num_tasks(int) const override { return num_tasks_; }
  bool is_by_thread(int) const override { return true; }
  void run(int, int64_t task, int) override {
    const int64_t end = num_rows_ * (task + 1) / num_tasks_;
    for (int64_t row = num_rows_ * task / num_tasks_; row < end; ++row) run_row(row);
  }

 protected:
  virtual void run_row(int64_t row) = 0;

  const Step* step_ = nullptr;

 private:
  int64_t num_rows_ = 0;
  int64_t num_tasks_ = 0;
};

}  // namespace octavo
