// The blocks of GGUF's quantized types as rows in groups of inputs, while a model loads.
#pragma once

#include <cstdint>

#include "threads.h"

namespace octavo {

// Where decoded blocks go, as octavo.kernels.grouped.GroupedRows has them: codes of 4 bits, the first of two in the low half
// of their byte, or of 8; a scale for each group of inputs, and a minimum where the type has them.
struct Decoded {
  uint8_t* codes;
  float* scales;
  float* minimums;
};

// One of ggml's types of blocks.
struct BlockType {
  int64_t block_bytes;
  // What a block becomes.
  int64_t code_bytes;
  int64_t num_groups;
  bool has_minimums;
  void (*decode)(const uint8_t* blocks, int64_t num_blocks, Decoded out);
};

// By the number in ggml's `ggml_type`. Throws std::invalid_argument where it is not one of those that become groups.
const BlockType& block_type(int64_t ggml_type);

// Row i of the result is row order[i] of `stored`. On all threads.
void decode_gguf(ThreadPool& threads, const BlockType& type, const uint8_t* stored, int64_t blocks_a_row, const int64_t* order,
                 int64_t num_rows, const Decoded& out);

}  // namespace octavo
