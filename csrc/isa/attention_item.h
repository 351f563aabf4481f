// What the two paths of attention share: a thread's scratch, the queries of an item, and where the result of a chunk goes.
#pragma once

#include "../attention_kernels.h"
#include "attention_softmax.h"

namespace octavo {
namespace OCTAVO_ISA {

// Cut from AttentionSpec::scratch_floats() floats. A vector is a query's in one head.
struct Scratch {
  int64_t width;
  float *queries, *sums, *running;      // [max_vectors, width]: scaled queries; a chunk's sums of values; the running ones
  float *scores;                        // [max_vectors, CHUNK], then the weights
  float *keys, *values;                 // [CHUNK, width] as float32, in panels: see `widen`
  float* copies;                        // [CHUNK, width] as the cache has them: see `Pieces`
  float *key_scales, *value_scales;     // [CHUNK]
  float *largest, *totals;              // [max_vectors], running
  float *chunk_largest, *chunk_totals;  // [max_vectors]
  float *query_scales, *weight_scales;  // [max_vectors], of an int8 cache

  OCTAVO_INLINE Scratch(float* memory, const AttentionSpec& spec) : width(spec.width()) {
    const int64_t vectors = spec.max_vectors();
    const auto take = [&memory](int64_t floats) {
      float* taken = memory;
      memory += floats;
      return taken;
    };
    queries = take(vectors * width);
    sums = take(vectors * width);
    running = take(vectors * width);
    scores = take(vectors * CHUNK);
    keys = take(CHUNK * width);
    values = take(CHUNK * width);
    copies = take(CHUNK * width);
    key_scales = take(CHUNK);
    value_scales = take(CHUNK);
    largest = take(vectors);
    totals = take(vectors);
    chunk_largest = take(vectors);
    chunk_totals = take(vectors);
    query_scales = take(vectors);
    weight_scales = take(vectors);
  }
};

// The scaled queries of an item for one KV head, [num_queries * group, width].
OCTAVO_INLINE void gather_queries(const AttentionCall& call, const AttentionItem& item, int64_t kv_head, int64_t width,
                                  float* queries) {
  const int64_t group = call.spec.group(), head_dim = call.spec.head_dim;
  for (int64_t q = 0; q < item.num_queries; ++q) {
    for (int64_t g = 0; g < group; ++g) {
      const float* from = call.qkv + (item.first_token + q) * call.qkv_stride + (kv_head * group + g) * head_dim;
      float* to = queries + (q * group + g) * width;
      for (int64_t d = 0; d < head_dim; ++d) to[d] = from[d] * call.spec.scale;
    }
  }
}

// A chunk's result of one head, apart for `merge`: [partial_size], the largest score, the total, and the weighted sums.
struct Partial {
  float* at;
  OCTAVO_INLINE Partial(const AttentionCall& call, int64_t index, int64_t head)
      : at(call.partials + (index * call.spec.num_heads + head) * call.spec.partial_size()) {}
  OCTAVO_INLINE float& largest() const { return at[0]; }
  OCTAVO_INLINE float& total() const { return at[1]; }
  OCTAVO_INLINE float* sums() const { return at + LANES; }
};

// Keeps a chunk's result of one head: merged, or apart where other items have other chunks of the row.
OCTAVO_INLINE void keep_result(const AttentionCall& call, const AttentionItem& item, const Scratch& s, int64_t vector,
                               int64_t head, int64_t chunk, float largest, float total) {
  const float* sums = s.sums + vector * s.width;
  if (item.partial < 0) {
    merge_chunk(s.largest + vector, s.totals + vector, s.running + vector * s.width, largest, total, sums, s.width);
    return;
  }
  const Partial partial(call, item.partial + chunk - item.chunk_begin, head);
  partial.largest() = largest;
  partial.total() = total;
  for (int64_t d = 0; d < s.width; d += LANES) store(partial.sums() + d, load(sums + d));
}

// The output of a row whose chunks were shared between items: its partial results, merged in the order of their positions
// into the first one of which anything was visible.
inline void merge(const AttentionCall& call, const AttentionMerge& m) {
  const AttentionSpec& spec = call.spec;
  for (int64_t head = 0; head < spec.num_heads; ++head) {
    Partial running(call, m.first_partial, head);
    for (int64_t i = 1; i < m.num_partials; ++i) {
      const Partial next(call, m.first_partial + i, head);
      if (next.total() < 0) continue;
      if (running.total() < 0) {
        running = next;
      } else {
        merge_chunk(&running.largest(), &running.total(), running.sums(), next.largest(), next.total(), next.sums(),
                    spec.width());
      }
    }
    write_output(running.sums(), running.total(), call.out + m.token * call.out_stride + head * spec.head_dim,
                 spec.head_dim);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
