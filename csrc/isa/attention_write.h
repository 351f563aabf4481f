// New tokens: RMS norm of each query and key head, rotary embedding, and the write of keys and values into the cache.
//
//   qkv     [num_tokens, (num_heads + 2 num_kv_heads) head_dim] float32, changed in place
//
// Where keys and values lie: kv_cache.h.
#pragma once

#include "../attention_kernels.h"
#include "pointwise.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// Rotary embedding of one head in the Hugging Face convention: pairs are the halves of the first rotary_dim dimensions (Su et
// al., RoFormer, 2021). `cos_sin` is [rotary_dim]: the cosines of the position's angles, then their sines.
OCTAVO_INLINE void rotate(float* head, const float* cos_sin, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  const float *cosines = cos_sin, *sines = cos_sin + half;
  int64_t i = 0;
  for (; i + LANES <= half; i += LANES) {
    const F32x16 a = load(head + i), b = load(head + half + i), c = load(cosines + i), s = load(sines + i);
    store(head + i, a * c - b * s);
    store(head + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cosines[i] - b * sines[i];
    head[half + i] = b * cosines[i] + a * sines[i];
  }
}

// Each head's RMS norm, in place. `heads` is [num_heads, head_dim]; without a weight nothing is done.
OCTAVO_INLINE void normalise_heads(float* heads, int64_t num_heads, const AttentionSpec& spec, const float* weight) {
  if (!weight) return;
  for (int64_t head = 0; head < num_heads; ++head) {
    Norm call;
    call.hidden = call.sum = call.normalised = heads + head * spec.head_dim;
    call.weight = weight;
    call.size = spec.head_dim;
    call.eps = spec.norm_eps;
    norm(call);
  }
}

// Up to sixteen elements of a vector into the cache, `stride` apart: the first `count`, of sixteen numbers.
template <class Element>
OCTAVO_INLINE void store_elements(F32x16 numbers, int count, typename Element::Stored* out, int64_t stride) {
  if (stride == 1 && count == LANES) {
    Element::store16(out, numbers);
    return;
  }
  typename Element::Stored lanes[LANES];
  Element::store16(lanes, numbers);
  for (int i = 0; i < count; ++i) out[i * stride] = lanes[i];
}

// A vector [size] into the cache, its elements `stride` apart.
template <class Element>
OCTAVO_INLINE void store_slot(const float* vector, int64_t size, typename Element::Stored* out, int64_t stride) {
  for (int64_t i = 0; i < size; i += LANES) {
    const int count = static_cast<int>(size - i < LANES ? size - i : LANES);
    store_elements<Element>(load_up_to(vector + i, size - i), count, out + i * stride, stride);
  }
}

// A vector in symmetric int8, `scale_at` its scale max|x| / 127: UNIT neighbours together, from one such group to the next
// `stride` bytes.
template <int64_t UNIT>
OCTAVO_INLINE void store_slot_int8(const float* vector, int64_t size, int8_t* out, int64_t stride, uint8_t* scale_at) {
  F32x16 largest = zero();
  for (int64_t i = 0; i < size; i += LANES) largest = max(abs(load_up_to(vector + i, size - i)), largest);
  const float range = max_lane(largest);
  const F32x16 inverse = set1(range > 0 ? INT8_LARGEST / range : 0.0f);
  for (int64_t i = 0; i < size; i += LANES) {
    const F32x16 whole = round(load_up_to(vector + i, size - i) * inverse);
    int8_t lanes[LANES];
    store_i8(lanes, min(max(whole, set1(-INT8_LARGEST)), set1(INT8_LARGEST)));
    const int64_t count = size - i < LANES ? size - i : LANES;
    for (int64_t j = 0; j < count; j += UNIT) __builtin_memcpy(out + (i + j) / UNIT * stride, lanes + j, UNIT);
  }
  const float scale = range / INT8_LARGEST;
  __builtin_memcpy(scale_at, &scale, sizeof scale);
}

// A token's keys and values into the cache.
template <class Element>
OCTAVO_INLINE void store_token(const KVCacheView& cache, int64_t block, int64_t layer, int64_t slot, const float* key,
                               const float* value) {
  using Stored = typename Element::Stored;
  const int64_t head_dim = cache.head_dim;
  for (int64_t head = 0; head < cache.num_kv_heads; ++head, key += head_dim, value += head_dim) {
    store_slot<Element>(key, head_dim, reinterpret_cast<Stored*>(cache.keys(block, layer, head)) + slot, cache.block_size);
    store_slot<Element>(value, head_dim, reinterpret_cast<Stored*>(cache.values(block, layer, head)) + slot * head_dim, 1);
  }
}

OCTAVO_INLINE void store_token_int8(const KVCacheView& cache, int64_t block, int64_t layer, int64_t slot, const float* key,
                                    const float* value) {
  const int64_t head_dim = cache.head_dim, key_unit = cache.key_unit(), value_unit = cache.value_unit();
  for (int64_t head = 0; head < cache.num_kv_heads; ++head, key += head_dim, value += head_dim) {
    int8_t* keys = reinterpret_cast<int8_t*>(cache.keys(block, layer, head)) + slot * key_unit;
    uint8_t* key_scale = cache.key_scales(block, layer, head) + slot * SCALE_BYTES;
    (key_unit == 2 ? store_slot_int8<2> : store_slot_int8<1>)(key, head_dim, keys, cache.block_size * key_unit, key_scale);
    int8_t* values = reinterpret_cast<int8_t*>(cache.values(block, layer, head)) + cache.value_at(slot, 0);
    uint8_t* value_scale = cache.value_scales(block, layer, head) + slot * SCALE_BYTES;
    store_slot_int8<1>(value, head_dim, values, value_unit, value_scale);
  }
}

inline void write_token(const AttentionCall& call, int64_t token) {
  const AttentionSpec& spec = call.spec;
  const KVCacheView& cache = call.cache;
  float* query = call.qkv + token * call.qkv_stride;
  float* key = query + spec.num_heads * spec.head_dim;
  const float* value = key + spec.num_kv_heads * spec.head_dim;
  normalise_heads(query, spec.num_heads, spec, spec.query_norm);
  normalise_heads(key, spec.num_kv_heads, spec, spec.key_norm);
  if (spec.cos_sin) {
    const float* cos_sin = spec.cos_sin + call.positions[token] * spec.rotary_dim;
    for (int64_t head = 0; head < spec.num_heads + spec.num_kv_heads; ++head) {
      rotate(query + head * spec.head_dim, cos_sin, spec.rotary_dim);
    }
  }
  const int64_t block = call.slots[token] / cache.block_size, slot = call.slots[token] % cache.block_size;
  switch (call.cache_type) {
    case DataType::float32: return store_token<Float32>(cache, block, spec.layer, slot, key, value);
    case DataType::bfloat16: return store_token<BFloat16>(cache, block, spec.layer, slot, key, value);
    case DataType::float16: return store_token<Float16>(cache, block, spec.layer, slot, key, value);
    case DataType::int8: return store_token_int8(cache, block, spec.layer, slot, key, value);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
