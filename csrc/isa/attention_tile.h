// The tile path of attention, for the many query vectors of a prefill: a chunk's keys and values are widened to float32 once
// and multiplied as matrices.
//
//   scores [num_vectors, CHUNK] = queries [num_vectors, head_dim] * keys [head_dim, CHUNK]
//   sums   [num_vectors, width] = weights [num_vectors, CHUNK] * values [CHUNK, width]
#pragma once

#include "attention_item.h"
#include "attention_pieces.h"
#include "gemm.h"

namespace octavo {
namespace OCTAVO_ISA {

// A chunk's keys and values of one KV head as float32.
//   keys    [CHUNK / LANES][width][LANES]: panels of slots
//   values  [width / LANES][CHUNK][LANES]: panels of dimensions
// Keys are widened to whole vectors past the last slot that is seen: their scores are hidden. Values are not: a weight of 0
// hides no NaN.
template <class Element>
OCTAVO_INLINE void widen(const Pieces& pieces, int64_t head_dim, int64_t kv_head, const Scratch& s) {
  using Stored = typename Element::Stored;
  const HeadPieces keys = pieces.keys(kv_head);
  for (int64_t i = keys.first; i < keys.last; ++i) {
    float* to = s.keys + i * LANES * s.width;
    for (int64_t d = 0; d < head_dim; ++d) {
      store(to + d * LANES, Element::load16(reinterpret_cast<const Stored*>(keys.at[i] + d * keys.stride)));
    }
  }
  const HeadPieces values = pieces.values(kv_head);
  for (int64_t slot = values.seen.begin; slot < values.seen.end; ++slot) {
    const auto* row = reinterpret_cast<const Stored*>(values.at[slot / LANES] + slot % LANES * values.stride);
    for (int64_t d = 0; d < s.width; d += LANES) store(s.values + d * CHUNK + slot * LANES, Element::load16(row + d));
  }
}

// The softmax of a chunk for all vectors, in place; weights of 0 where a query sees nothing of the slots [begin, end), which
// are whole vectors.
OCTAVO_INLINE void softmax_tile(const AttentionCall& call, const AttentionItem& item, const Scratch& s, int64_t chunk,
                                int64_t begin, int64_t end) {
  const AttentionSpec& spec = call.spec;
  const int64_t group = spec.group(), num_vectors = item.num_queries * group;
  for (int64_t v = 0; v < num_vectors; ++v) {
    const Visible seen(spec, item.first_position + v / group, item.num_tokens, chunk);
    float* scores = s.scores + v * CHUNK;
    const int64_t first_seen = seen.is_empty() ? end : seen.begin / LANES * LANES;
    for (int64_t i = begin; i < first_seen; i += LANES) store(scores + i, zero());
    s.chunk_totals[v] = NOTHING_VISIBLE;
    if (seen.is_empty()) continue;
    softmax_chunk(scores, end, seen, spec.softcap, nullptr, s.chunk_largest + v, s.chunk_totals + v, [] {});
  }
}

// One chunk of one KV head for all of an item's queries.
template <class Element>
OCTAVO_INLINE void attend_chunk(const AttentionCall& call, const AttentionItem& item, const Scratch& s, int64_t kv_head,
                                int64_t chunk) {
  const AttentionSpec& spec = call.spec;
  const int64_t group = spec.group(), num_vectors = item.num_queries * group;
  const int64_t last_position = item.first_position + item.num_queries - 1;
  const int64_t oldest = Visible(spec, item.first_position, item.num_tokens, chunk).begin, begin = oldest / LANES * LANES;
  const int64_t end = Visible(spec, last_position, item.num_tokens, chunk).end;
  const int64_t padded_end = (end + LANES - 1) / LANES * LANES;
  if (begin < end) {
    widen<Element>(Pieces(call, item, chunk, s), spec.head_dim, kv_head, s);
    gemm(s.queries, s.width, num_vectors, s.keys + begin * s.width, s.width * LANES, spec.head_dim, s.scores + begin, CHUNK,
         padded_end - begin);
  }
  softmax_tile(call, item, s, chunk, begin, padded_end);
  if (begin < end) {
    // What lies before the oldest slot that is seen may be another sequence's: a weight of 0 hides no NaN.
    gemm(s.scores + oldest, CHUNK, num_vectors, s.values + oldest * LANES, CHUNK * LANES, end - oldest, s.sums, s.width,
         s.width);
  }
  for (int64_t v = 0; v < num_vectors; ++v) {
    if (s.chunk_totals[v] < 0 && item.partial < 0) continue;
    keep_result(call, item, s, v, kv_head * group + v % group, chunk, s.chunk_largest[v], s.chunk_totals[v]);
  }
}

template <class Element>
void attend_tile(const AttentionCall& call, const AttentionItem& item, float* memory) {
  const Scratch s(memory, call.spec);
  const int64_t group = call.spec.group(), num_vectors = item.num_queries * group, head_dim = call.spec.head_dim;
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
    gather_queries(call, item, kv_head, s.width, s.queries);
    for (int64_t v = 0; v < num_vectors; ++v) s.totals[v] = NOTHING_VISIBLE;
    for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
      attend_chunk<Element>(call, item, s, kv_head, chunk);
    }
    if (item.partial >= 0) continue;
    for (int64_t v = 0; v < num_vectors; ++v) {
      float* out = call.out + (item.first_token + v / group) * call.out_stride + (kv_head * group + v % group) * head_dim;
      write_output(s.running + v * s.width, s.totals[v], out, head_dim);
    }
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
