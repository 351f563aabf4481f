// Paged attention: what its kernels are given. isa/attention.h has them, ops/attention.cpp cuts a step into their items.
#pragma once

#include <cstdint>

#include "kv_cache.h"

namespace octavo {

// Floats of a vector in all kernels, whatever the processor: what is padded is padded to whole vectors.
constexpr int LANES = 16;

enum class DataType : int { float32 = 0, bfloat16 = 1, float16 = 2, int8 = 3 };

// Tokens whose keys and values are reduced together. A query reduces the chunks that it sees one by one, each by the same
// operations in the same order on every path, and merges them by position; so its result depends on its own row only.
constexpr int64_t CHUNK = 256;

// Dimensions of a head whose products with an int8 key, of 15 bits each, add up within 32 bits.
constexpr int64_t MAX_INT8_HEAD_DIM = 1024;

// Query vectors (queries times the heads that share a KV head) that a tile of a prefill has, at the most.
constexpr int64_t TILE_VECTORS = 96;

// What of a sequence a layer reads: the kinds of src/octavo/layer_groups.py.
struct LayerKind {
  enum class Name { full, window };
  Name name = Name::full;
  int64_t size = 0;
  bool is_causal = true;

  // The first position that a query at `position` sees.
  __attribute__((always_inline)) int64_t first_seen(int64_t position) const {
    switch (name) {
      case Name::window: return position < size ? 0 : position - size + 1;
      default: return 0;
    }
  }
  // The last one, in a row of `num_tokens`.
  __attribute__((always_inline)) int64_t last_seen(int64_t position, int64_t num_tokens) const {
    if (is_causal) return position;
    return name == Name::window && position + size < num_tokens ? position + size - 1 : num_tokens - 1;
  }
};

struct AttentionSpec {
  int64_t layer_group = 0;  // whose block tables and slots the layer uses
  int64_t layer = 0;        // its place in the group's records
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1;
  LayerKind kind;
  float softcap = 0;               // 0 is none
  const float* query_norm = nullptr;  // [head_dim] or null: the weight of an RMS norm of each query head
  const float* key_norm = nullptr;    // and of each key head
  float norm_eps = 0;
  const float* cos_sin = nullptr;  // [max_positions, rotary_dim] or null
  int64_t rotary_dim = 0;

  int64_t group() const { return num_heads / num_kv_heads; }
  // Floats of a head's vector, padded to whole SIMD vectors.
  int64_t width() const { return (head_dim + LANES - 1) / LANES * LANES; }
  // Floats of one head's result of a chunk: the largest score, the total (negative: nothing was visible), and after a
  // whole vector the weighted values.
  int64_t partial_size() const { return LANES + width(); }
  // Query vectors that a thread's scratch has room for.
  int64_t max_vectors() const;
  // Floats of a thread's scratch (isa/attention_item.h).
  int64_t scratch_floats() const;
};

// A layer's call in one step, with the slots and block tables of its layer group.
struct AttentionCall {
  AttentionSpec spec;
  KVCacheView cache;
  DataType cache_type = DataType::float32;
  float* qkv = nullptr;
  int64_t qkv_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  const int64_t* positions = nullptr;     // [num_tokens]
  const int64_t* slots = nullptr;         // [num_tokens]
  const int64_t* block_tables = nullptr;  // [num_tables, max_blocks]
  int64_t max_blocks = 0;
  float* partials = nullptr;              // [chunks of shared rows, num_heads, partial_size]
};

// Consecutive queries of one row, some of its KV heads, and the chunks they reduce here.
struct AttentionItem {
  int64_t table = 0;        // its place in the block tables
  int64_t first_token = 0;  // in the step's flat list
  int64_t num_queries = 0;
  int64_t first_position = 0;
  int64_t num_tokens = 0;  // of the row, those of earlier steps among them
  int64_t kv_head_begin = 0, kv_head_end = 0;
  int64_t chunk_begin = 0, chunk_end = 0;
  // Where chunk_begin's partial result goes, for a row whose chunks are shared between items; -1: the item has all of
  // the chunks and writes the output.
  int64_t partial = -1;
  // Whether it is all of a row of one query, so that nothing else waits for the row's token or has a part of its output.
  bool is_row = false;
};

// A row whose chunks were shared between items.
struct AttentionMerge {
  int64_t token = 0;
  int64_t first_partial = 0;
  int64_t num_partials = 0;
};

struct AttentionKernels {
  // Normalise and rotate a token's queries, in place, and its key; write key and value into its slot.
  void (*write_token)(const AttentionCall&, int64_t token);
  // `scratch` has spec.scratch_floats() floats and is the thread's own; `next` is an item that the thread may take
  // afterwards, whose keys it brings nearer.
  void (*attend)(const AttentionCall&, const AttentionItem&, const AttentionItem& next, float* scratch);
  void (*merge)(const AttentionCall&, const AttentionMerge&);
};

inline int64_t AttentionSpec::max_vectors() const { return num_heads > TILE_VECTORS ? num_heads : TILE_VECTORS; }

inline int64_t AttentionSpec::scratch_floats() const {
  const int64_t of_vector = 3 * width() + CHUNK + 6;  // query and sums; scores; largest scores, totals, int8's scales
  const int64_t of_slot = 3 * width() + 2;            // key, value, a copy of either; their scales
  return max_vectors() * of_vector + CHUNK * of_slot;
}

}  // namespace octavo
