// Where a token's keys and values lie in the KV cache, and the moving of whole blocks.
//
// The cache is one allocation of `num_blocks` records. A record holds a block's tokens for one group of layers, which lie one
// after another in its `num_layers` places; a layer holds
//   keys    [num_kv_heads][head_dim][block_size]   transposed: the slots of a block are the lanes of a vector
//   values  [num_kv_heads][block_size][head_dim]
// An int8 cache has pairs of what products add up, as their instructions take them, and a float32 scale for each vector:
//   keys    [num_kv_heads][head_dim / 2][block_size][2]
//   values  [num_kv_heads][block_size / 2][head_dim][2]
//   key scales, value scales   [num_kv_heads][block_size] each
// Where head_dim or block_size is odd, the other layout of keys or of values.
// A record's size is CacheShape.block_bytes (src/octavo/kernels/cache.py).
#pragma once

#include <cstdint>

#include "threads.h"

namespace octavo {

constexpr int64_t SCALE_BYTES = sizeof(float);

struct KVCacheView {
  uint8_t* base = nullptr;
  int64_t num_blocks = 0;
  int64_t num_layers = 0;
  int64_t block_size = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t item_bytes = 0;
  bool has_scales = false;

  int64_t head_bytes() const { return head_dim * block_size * item_bytes; }
  int64_t layer_bytes() const { return 2 * num_kv_heads * (head_bytes() + (has_scales ? block_size * SCALE_BYTES : 0)); }
  int64_t block_bytes() const { return num_layers * layer_bytes(); }

  // How many of a key's dimensions lie together, and of a value's slots.
  int64_t key_unit() const { return has_scales && head_dim % 2 == 0 ? 2 : 1; }
  int64_t value_unit() const { return has_scales && block_size % 2 == 0 ? 2 : 1; }
  // Where a number of a head lies among its keys or values, in numbers.
  int64_t key_at(int64_t dim, int64_t slot) const { return place(key_unit(), block_size, dim, slot); }
  int64_t value_at(int64_t slot, int64_t dim) const { return place(value_unit(), head_dim, slot, dim); }
  static int64_t place(int64_t unit, int64_t width, int64_t i, int64_t j) { return (i / unit * width + j) * unit + i % unit; }

  // Where a head's parts lie in a layer. Scales may lie at any address: read and write them by memcpy.
  int64_t keys_at(int64_t head) const { return head * head_bytes(); }
  int64_t values_at(int64_t head) const { return (num_kv_heads + head) * head_bytes(); }
  int64_t key_scales_at(int64_t head) const { return 2 * num_kv_heads * head_bytes() + head * block_size * SCALE_BYTES; }
  int64_t value_scales_at(int64_t head) const { return key_scales_at(num_kv_heads + head); }

  uint8_t* layer(int64_t block, int64_t layer) const { return base + block * block_bytes() + layer * layer_bytes(); }
  uint8_t* keys(int64_t block, int64_t layer, int64_t head) const { return this->layer(block, layer) + keys_at(head); }
  uint8_t* values(int64_t block, int64_t layer, int64_t head) const { return this->layer(block, layer) + values_at(head); }
  uint8_t* key_scales(int64_t block, int64_t layer, int64_t head) const {
    return this->layer(block, layer) + key_scales_at(head);
  }
  uint8_t* value_scales(int64_t block, int64_t layer, int64_t head) const {
    return this->layer(block, layer) + value_scales_at(head);
  }
};

// Copies whole records within a cache or from one to another. No record is both read and written, none written twice.
void copy_blocks(const uint8_t* source, uint8_t* destination, int64_t block_bytes, const int64_t* source_ids,
                 const int64_t* destination_ids, int64_t n, ThreadPool& threads);

}  // namespace octavo
