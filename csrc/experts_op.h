// A feed-forward layer of experts (Shazeer et al., Outrageously Large Neural Networks, 2017): each token goes through the
// few that score highest for it, and their results are added, weighted by the softmax of their scores.
#pragma once

#include <memory>
#include <vector>

#include "kernels.h"
#include "program.h"

namespace octavo {

struct Experts {
  std::vector<const PackedWeight*> gate_up;  // of each expert, [2 * inner, hidden]
  std::vector<const PackedWeight*> down;     // [hidden, inner]
  int64_t num_chosen = 0;                    // a token's
  Activation activation = Activation::silu;
};

// What the operation works in: rows of a token are its chosen experts'.
struct ExpertBuffers {
  Buffer* hidden;     // [num_tokens, hidden], in the form that products with gate_up take
  Buffer* scores;     // [num_tokens, num_experts]
  Buffer* gate_up;    // [num_tokens * num_chosen, 2 * inner]
  Buffer* activated;  // [num_tokens * num_chosen, inner], in the form that products with down take
  Buffer* results;    // [num_tokens * num_chosen, hidden]
  Buffer* out;        // [num_tokens, hidden]
};

// Throws std::invalid_argument where weights and buffers don't fit.
std::unique_ptr<Op> make_experts_op(const KernelTable& kernels, Experts experts, const ExpertBuffers& buffers);

}  // namespace octavo
