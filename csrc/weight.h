// Weights packed for the products: what they are packed from, the form that they get, and who owns its memory.
#pragma once

#include <cstdint>
#include <memory>

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

// A matrix in groups of inputs, as octavo.kernels.quantized.GroupedWeight has it.
struct PlainGroupedWeight {
  int64_t bits;                // 4 or 8
  int64_t num_outputs;
  int64_t num_inputs;
  int64_t group;               // 16, or a multiple of 32
  const uint8_t* codes;        // [num_outputs, num_inputs] int8; 4 bits: two codes a byte, the first in its low half
  const uint16_t* scales;      // [num_outputs, groups] float16
  const uint16_t* minimums;    // the same, or null
  const float* row_scales;     // [num_outputs]
  const int8_t* table;         // 4 bits: the 16 numbers that codes stand for; null: code - 8, with minimums the code
};

// The form that a matrix is packed to, without memory. Throws std::invalid_argument where there is none.
PackedWeight form_of(const PlainWeight& plain);
PackedWeight form_of(const PlainGroupedWeight& plain);

// The bytes that a weight of a form takes: its panels, then the scales of its outputs.
int64_t num_bytes(const PackedWeight& form);

// A packed weight and its share of the memory that it lies in: its own, or that of a mapped file.
class Weight {
 public:
  // Pack a copy, on all threads, in large pages where the system has them. Throw std::bad_alloc.
  Weight(const PlainWeight& plain, ThreadPool& threads);
  Weight(const PlainGroupedWeight& plain, ThreadPool& threads);
  // One that has been packed: `memory` has num_bytes(form), aligned to 64.
  Weight(const PackedWeight& form, std::shared_ptr<uint8_t> memory);

  const PackedWeight& packed() const { return packed_; }

 private:
  PackedWeight packed_;
  std::shared_ptr<uint8_t> memory_;
};

}  // namespace octavo
