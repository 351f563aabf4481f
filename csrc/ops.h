// The operations of a forward pass other than attention: what each reads, writes and cuts into tasks.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels.h"
#include "program.h"

namespace octavo {

// A vector of float32 that a module owns and an operation reads: a norm's weight, a bias.
using Vector = std::shared_ptr<const std::vector<float>>;

// Fills a row of the form that the buffer's products take, where it is not float32.
void convert_row(const KernelTable& kernels, Buffer& buffer, int64_t row);

// What an embedding looks up for each token.
enum class Ids { tokens, positions };

// The weight's rows belong to the ids from `first_id` on; for others there are zeros.
std::unique_ptr<Op> make_embedding_op(const KernelTable& kernels, const PackedWeight& weight, Ids ids, int64_t first_id,
                                      float scale, Buffer* out);

// Sum and norm of two buffers, a layer norm where `centred`, else an RMS norm. `weight`, `bias` and `residual` may be
// null. `sum` may be the buffer `residual`, or `hidden`.
std::unique_ptr<Op> make_norm_op(const KernelTable& kernels, Vector weight, Vector bias, float eps, bool centred,
                                 Buffer* hidden, Buffer* residual, Buffer* normalised, Buffer* sum);

// `in` must be asked for the form that the weight's products take.
std::unique_ptr<Op> make_product_op(const KernelTable& kernels, const PackedWeight& weight, Vector bias, Buffer* in,
                                    Buffer* out);

// Where `in` is twice as wide as `out`, its second half multiplies the activations of its first.
std::unique_ptr<Op> make_activation_op(const KernelTable& kernels, Activation kind, Buffer* in, Buffer* out);

std::unique_ptr<Op> make_add_op(const KernelTable& kernels, Buffer* a, Buffer* b, Buffer* out);

// Work that is done elsewhere, on a buffer's data: [num_tokens, width], overwritten. It may throw.
using Elsewhere = std::function<void(float* data, int64_t num_tokens, int64_t width)>;
std::unique_ptr<Op> make_elsewhere_op(const KernelTable& kernels, const char* name, Elsewhere work, Buffer* buffer);

// Logits of some tokens of the step that ran last: out[i] = weight * in[rows[i]], all threads, one call.
void compute_logits(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, float* out, int num_threads);

}  // namespace octavo
