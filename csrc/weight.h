// Weights packed for the products: what they are packed from, the form that they get, and who owns its memory.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels.h"

namespace octavo {

// A matrix as the loader has it: [num_outputs, num_inputs], rows one after another; int8 with a scale for each output.
struct PlainWeight {
  DataType type;
  int64_t num_outputs;
  int64_t num_inputs;
  const void* values;
  const float* scales;
};

// The form that a matrix is packed to, without memory.
PackedWeight form_of(const PlainWeight& plain);

// The bytes that a weight of a form takes: its panels, then the scales of its outputs.
int64_t num_bytes(const PackedWeight& form);

// A packed weight and its share of the memory that it lies in: its own, or that of a mapped file.
class Weight {
 public:
  // Packs a copy, on all threads, in large pages where the system has them. Throws std::bad_alloc.
  explicit Weight(const PlainWeight& plain);
  // One that has been packed: `memory` has num_bytes(form), aligned to 64.
  Weight(const PackedWeight& form, std::shared_ptr<uint8_t> memory);

  const PackedWeight& packed() const { return packed_; }

 private:
  PackedWeight packed_;
  std::shared_ptr<uint8_t> memory_;
};

}  // namespace octavo
