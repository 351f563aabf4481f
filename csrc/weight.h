// Weights packed for the products, in memory of their own.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "threads.h"

namespace octavo {

// A matrix as the loader has it: [num_outputs, num_inputs], rows one after another; int8 with a scale for each output.
struct PlainWeight {
  DataType type;
  int64_t num_outputs;
  int64_t num_inputs;
  const void* values;
  const float* scales;
};

// Owns a PackedWeight's memory, in large pages where the system has them.
class Weight {
 public:
  // Packs a copy. Throws std::bad_alloc.
  Weight(const PlainWeight& plain, ThreadPool& threads);
  ~Weight();
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  const PackedWeight& packed() const { return packed_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  PackedWeight packed_;
  int64_t num_bytes_ = 0;
};

}  // namespace octavo
