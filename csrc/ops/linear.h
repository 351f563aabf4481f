// Products of activations with a weight.
#pragma once

#include "../operation.h"

namespace octavo {

// Adds out = in * weight + bias to a program. Throws std::invalid_argument where the weight does not fit the buffers.
void add_product(Program& program, const KernelTable& kernels, SharedWeight weight, Floats bias, Buffer* in, Buffer* out);

// Logits of some tokens of the step that ran last: out[i] = weight * in[rows[i]], all threads, one call. `likeliest`, where
// not null, gets the place of each row's highest, the first of equals, or -1 where a logit of the row is not finite: each is
// looked at while it lies in the cache of the thread that made it.
void compute_logits(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, float* out, int64_t* likeliest, ThreadPool& threads);

}  // namespace octavo
