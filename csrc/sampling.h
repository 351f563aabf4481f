// Drawing tokens from logits, as src/octavo/kernels/sampling/ defines it.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "threads.h"

namespace octavo {

// How some rows are drawn, each array with an entry for each of them: `PARAMETERS` of kernels/sampling/interface.py.
struct Draws {
  int64_t num_rows = 0;
  const int64_t* rows = nullptr;       // which rows of the logits
  const float* temperature = nullptr;  // a normal number
  const int64_t* top_k = nullptr;      // 0 keeps all
  const double* top_p = nullptr;       // 1 keeps all
  const double* min_p = nullptr;       // 0 keeps all
  const uint32_t* keys = nullptr;      // [num_rows, 2], of the noise
};

// token_ids [num_rows] get each row's token, -1 where its highest logit is no finite number. What a row gets depends on no
// other. `logits` [rows, vocab_size]; each is read twice, once from memory.
void draw_tokens(const KernelTable& kernels, ThreadPool& threads, const float* logits, int64_t vocab_size,
                 const Draws& draws, int64_t* token_ids);

}  // namespace octavo
