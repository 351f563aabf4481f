// The attention operation: cuts a step into items that threads can share, once for all layers.
#pragma once

#include <memory>

#include "kernels.h"
#include "program.h"

namespace octavo {

// Plans of the step that runs, shared by the layers of a program.
class AttentionPlanner;
std::shared_ptr<AttentionPlanner> make_attention_planner();

AttentionSpec make_attention_spec(int64_t layer_group, int64_t layer, int64_t num_heads, int64_t num_kv_heads,
                                  int64_t head_dim, float scale, int64_t window, float softcap, const float* query_norm,
                                  const float* key_norm, float norm_eps, const float* cos_sin, int64_t rotary_dim);
KVCacheView make_kv_cache_view(uint8_t* base, int64_t num_blocks, int64_t num_layers, int64_t block_size,
                               int64_t num_kv_heads, int64_t head_dim, DataType type);

// `qkv` is [num_tokens, (num_heads + 2 num_kv_heads) head_dim] and is normalised and rotated in place; `out` [num_tokens, num_heads
// head_dim]. Throws std::invalid_argument where the shapes don't fit.
std::unique_ptr<Op> make_attention_op(const KernelTable& kernels, const AttentionSpec& spec,
                                      std::shared_ptr<AttentionPlanner> planner, const KVCacheView& cache,
                                      DataType cache_type, Buffer* qkv, Buffer* out);

}  // namespace octavo
