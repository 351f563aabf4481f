// Products of activations with a weight.
#pragma once

#include "../operation.h"

namespace octavo {

// Adds out = in * weights + bias to a program, the weights' outputs side by side. Throws std::invalid_argument where they do not
// fit the buffers.
void add_product(Program& program, const KernelTable& kernels, std::vector<SharedWeight> weights, Floats bias, Buffer* in,
                 Buffer* out);

// Logits of some tokens of the step that ran last: out[i] = weight * in[rows[i]], all threads, one call.
void compute_logits(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, float* out, ThreadPool& threads);

}  // namespace octavo
