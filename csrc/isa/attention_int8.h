// Attention over an int8 cache, in integers: queries and weights are rounded to 15 bits, with a scale for each vector, and
// multiplied by keys and values as they lie in the cache. The sums are exact, so any order and any instruction set gives the
// same ones.
//
//   scores [num_vectors, CHUNK] = queries [num_vectors, head_dim] * keys [head_dim / 2][LANES][2] of each piece
//   sums   [num_vectors, width] = weights [num_vectors, CHUNK] * values [LANES / 2][width][2] of each piece
//
// A vector is a query's in one head: those of a KV head read its keys and values together, whether they are a decoding row's
// or a prefill's.
#pragma once

#include "attention_item.h"
#include "attention_pieces.h"
#include "register_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

// What the largest number of a rounded vector becomes: sums of MAX_INT8_HEAD_DIM products with int8 fit into 32 bits.
constexpr float INT15_LARGEST = 16383.0f;

constexpr int64_t PAIR_OF_NUMBERS = 2;
constexpr int64_t PAIRS_BYTES = LANES * PAIR_OF_NUMBERS;  // int8
constexpr int64_t PAIRS_A_PIECE = LANES / PAIR_OF_NUMBERS;
// Rounded vectors lie where float32 ones did, `floats` apart.
constexpr int64_t int16_stride(int64_t floats) { return floats * 2; }

// Rounds the numbers [begin, end) of x, whole vectors, none of them above `largest`, to int16, in place: number i goes to 2 i
// bytes from x on. Returns their scale.
OCTAVO_INLINE float round_in_place(float* x, int64_t begin, int64_t end, float largest) {
  const F32x16 inverse = inverse_of(largest, INT15_LARGEST);
  auto* rounded = reinterpret_cast<int16_t*>(x);
  for (int64_t i = begin; i < end; i += LANES) store_i16(rounded + i, nearest(load(x + i) * inverse));
  return largest / INT15_LARGEST;
}

// Rounds a scaled query [width]; returns its scale, NaN where the query has what is not finite.
OCTAVO_INLINE float round_query(float* query, int64_t width) {
  F32x16 largest = zero(), odd = zero();
  for (int64_t d = 0; d < width; d += LANES) {
    const F32x16 part = load(query + d);
    largest = max(abs(part), largest);
    odd = odd + (part - part);
  }
  return round_in_place(query, 0, width, max_lane(largest)) + sum_lanes(odd);
}

// Scores of COUNT pieces for VECTORS query vectors; meanwhile half as many bytes are fetched.
template <int VECTORS, int COUNT>
OCTAVO_INLINE void score_int8(const int8_t* const* keys, int64_t stride, int64_t num_pairs, const int16_t* queries,
                              int64_t query_stride, const float* scales, float* scores, Ahead* ahead) {
  constexpr int64_t FETCHED = COUNT * PAIRS_BYTES / 2;
  I32x16 sums[VECTORS][COUNT];
  clear(sums);
  for (int part = 0; part < COUNT; ++part) {
    const int64_t begin = num_pairs * part / COUNT, end = num_pairs * (part + 1) / COUNT;
    const uint8_t* near = take(ahead, (end - begin) * FETCHED, keys[0]);
    for (int64_t pair = begin; pair < end; ++pair) {
      prefetch_lines(near, FETCHED);
      near += FETCHED;
      I16Pairs key[COUNT];
      OCTAVO_UNROLL
      for (int i = 0; i < COUNT; ++i) key[i] = load_i8_pairs(keys[i] + pair * stride);
      OCTAVO_UNROLL
      for (int v = 0; v < VECTORS; ++v) {
        const int32_t query = word_at(queries + v * query_stride + pair * PAIR_OF_NUMBERS);
        OCTAVO_UNROLL
        for (int i = 0; i < COUNT; ++i) add_pair_products(sums[v][i], key[i], query);
      }
    }
  }
  OCTAVO_UNROLL
  for (int v = 0; v < VECTORS; ++v) {
    OCTAVO_UNROLL
    for (int i = 0; i < COUNT; ++i) store(scores + v * CHUNK + i * LANES, to_float(sums[v][i]) * set1(scales[v]));
  }
}

// Weighted sums of COUNT vectors of the values, from `first_dim` on, for VECTORS query vectors; meanwhile half as many bytes
// are fetched.
template <int VECTORS, int COUNT>
OCTAVO_INLINE void add_values_int8(const HeadPieces& values, int64_t first_dim, const int16_t* weights, const float* scales,
                                   float* sums, int64_t width, Ahead* ahead) {
  constexpr int64_t FETCHED = COUNT * PAIRS_BYTES / 2;
  I32x16 tile[VECTORS][COUNT];
  clear(tile);
  for (int64_t piece = values.first; piece < values.last; ++piece) {
    const auto* from = reinterpret_cast<const int8_t*>(values.at[piece]) + first_dim * PAIR_OF_NUMBERS;
    const int16_t* factors = weights + piece * LANES;
    const uint8_t* near = take(ahead, PAIRS_A_PIECE * FETCHED, from);
    for (int64_t pair = 0; pair < PAIRS_A_PIECE; ++pair) {
      prefetch_lines(near, FETCHED);
      near += FETCHED;
      I16Pairs value[COUNT];
      OCTAVO_UNROLL
      for (int i = 0; i < COUNT; ++i) value[i] = load_i8_pairs(from + pair * values.stride + i * PAIRS_BYTES);
      OCTAVO_UNROLL
      for (int v = 0; v < VECTORS; ++v) {
        const int32_t factor = word_at(factors + v * int16_stride(CHUNK) + pair * PAIR_OF_NUMBERS);
        OCTAVO_UNROLL
        for (int i = 0; i < COUNT; ++i) add_pair_products(tile[v][i], value[i], factor);
      }
    }
  }
  OCTAVO_UNROLL
  for (int v = 0; v < VECTORS; ++v) {
    OCTAVO_UNROLL
    for (int i = 0; i < COUNT; ++i) store(sums + v * width + first_dim + i * LANES, to_float(tile[v][i]) * set1(scales[v]));
  }
}

// Of VECTORS query vectors from `vector` on; s.queries and s.scores hold rounded ones.
template <int VECTORS>
void score_chunk_int8(const HeadPieces& keys, const Scratch& s, int64_t vector, Ahead* ahead) {
  constexpr int COUNT = vectors_for(VECTORS);
  const auto* queries = reinterpret_cast<const int16_t*>(s.queries + vector * s.width);
  const int64_t num_pairs = s.width / PAIR_OF_NUMBERS, query_stride = int16_stride(s.width);
  const float* scales = s.query_scales + vector;
  float* scores = s.scores + vector * CHUNK;
  const auto* at = reinterpret_cast<const int8_t* const*>(keys.at);
  int64_t i = keys.first;
  for (; i + COUNT <= keys.last; i += COUNT) {
    score_int8<VECTORS, COUNT>(at + i, keys.stride, num_pairs, queries, query_stride, scales,
                               scores + i * LANES, ahead);
  }
  for (; i < keys.last; ++i) {
    score_int8<VECTORS, 1>(at + i, keys.stride, num_pairs, queries, query_stride, scales, scores + i * LANES,
                           ahead);
  }
}

template <int VECTORS>
void add_chunk_int8(const HeadPieces& values, const Scratch& s, int64_t vector, Ahead* ahead) {
  constexpr int COUNT = vectors_for(VECTORS);
  const auto* weights = reinterpret_cast<const int16_t*>(s.scores + vector * CHUNK);
  const float* scales = s.weight_scales + vector;
  float* sums = s.sums + vector * s.width;
  int64_t d = 0;
  for (; d + COUNT * LANES <= s.width; d += COUNT * LANES) {
    add_values_int8<VECTORS, COUNT>(values, d, weights, scales, sums, s.width, ahead);
  }
  for (; d < s.width; d += LANES) add_values_int8<VECTORS, 1>(values, d, weights, scales, sums, s.width, ahead);
}

using Int8Function = void (*)(const HeadPieces&, const Scratch&, int64_t vector, Ahead*);
// By the number of query vectors less one.
constexpr Int8Function INT8_SCORES[MAX_HEADS] = {score_chunk_int8<1>, score_chunk_int8<2>, score_chunk_int8<3>,
                                                 score_chunk_int8<4>, score_chunk_int8<5>, score_chunk_int8<6>,
                                                 score_chunk_int8<7>, score_chunk_int8<8>};
constexpr Int8Function INT8_SUMS[MAX_HEADS] = {add_chunk_int8<1>, add_chunk_int8<2>, add_chunk_int8<3>, add_chunk_int8<4>,
                                               add_chunk_int8<5>, add_chunk_int8<6>, add_chunk_int8<7>, add_chunk_int8<8>};

// Calls one of `functions` for `count` query vectors from `vector` on, in parts.
OCTAVO_INLINE void by_parts(const Int8Function* functions, const HeadPieces& pieces, const Scratch& s, int64_t vector,
                            int64_t count, Ahead* ahead) {
  for_parts(count, ahead, [&](int64_t first, int64_t size, Ahead* own_ahead) {
    functions[size - 1](pieces, s, vector + first, own_ahead);
  });
}

// The rounded weights of one query vector, from its scores; 0 in the item's pieces that it sees nothing of.
OCTAVO_INLINE void weigh_int8(const AttentionCall& call, const HeadPieces& pieces, Visible seen, const Scratch& s,
                              int64_t vector, Ahead* ahead) {
  float* scores = s.scores + vector * CHUNK;
  const int64_t first = pieces.first * LANES, end = pieces.last * LANES;
  const int64_t first_seen = seen.is_empty() ? end : seen.begin / LANES * LANES;
  for (int64_t i = first; i < first_seen; i += LANES) store(scores + i, zero());
  float largest_weight = 0;
  s.chunk_totals[vector] = NOTHING_VISIBLE;
  if (!seen.is_empty()) {
    const Scales scales{s.key_scales, s.value_scales, &largest_weight};
    // The half that products leave: weights take about as long.
    const int64_t line_a_vector = CACHE_LINE * call.spec.group();
    const int64_t lines = (LANES * call.spec.head_dim + line_a_vector - 1) / line_a_vector;
    softmax_chunk(scores, end, seen, call.spec.softcap, &scales, s.chunk_largest + vector, s.chunk_totals + vector,
                  [&] { if (ahead) ahead->fetch(lines); });
  }
  s.weight_scales[vector] = round_in_place(scores, first, end, largest_weight);
}

// One chunk for all of an item's queries and KV heads.
OCTAVO_INLINE void attend_chunk_int8(const AttentionCall& call, const AttentionItem& item, int64_t chunk, const Scratch& s,
                                     Ahead* ahead) {
  const Pieces pieces(call, item, chunk, s);
  const int64_t group = call.spec.group(), a_kv_head = item.num_queries * group;
  int64_t vector = 0;
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
    pieces.fetch_scales(kv_head);
    const HeadPieces keys = pieces.keys(kv_head);
    by_parts(INT8_SCORES, keys, s, vector, a_kv_head, ahead);
    pieces.gather_scales(kv_head, s);
    for (const int64_t end = vector + a_kv_head; vector < end; ++vector) {
      const int64_t position = item.first_position + vector % a_kv_head / group;
      weigh_int8(call, keys, Visible(call.spec, position, item.num_tokens, chunk), s, vector, ahead);
    }
  }
  vector = 0;
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head, vector += a_kv_head) {
    by_parts(INT8_SUMS, pieces.values(kv_head), s, vector, a_kv_head, ahead);
  }
}

inline void attend_int8(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  const AttentionSpec& spec = call.spec;
  const Scratch s(memory, spec);
  const int64_t group = spec.group(), a_kv_head = item.num_queries * group;
  const int64_t num_vectors = (item.kv_head_end - item.kv_head_begin) * a_kv_head;
  const auto head_of = [&](int64_t v) { return (item.kv_head_begin + v / a_kv_head) * group + v % group; };
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
    gather_queries(call, item, kv_head, s.width, s.queries + (kv_head - item.kv_head_begin) * a_kv_head * s.width);
  }
  for (int64_t v = 0; v < num_vectors; ++v) {
    for (int64_t d = spec.head_dim; d < s.width; ++d) s.queries[v * s.width + d] = 0;
    s.query_scales[v] = round_query(s.queries + v * s.width, s.width);
    s.totals[v] = NOTHING_VISIBLE;
  }
  Ahead following(call, item, next);
  // A prefill's products take longer than memory.
  Ahead* ahead = item.num_queries == 1 && Pieces::are_in_place(call) ? &following : nullptr;
  for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
    if (seen_by(call, item, chunk).is_empty()) continue;
    attend_chunk_int8(call, item, chunk, s, ahead);
    for (int64_t v = 0; v < num_vectors; ++v) {
      if (s.chunk_totals[v] < 0 && item.partial < 0) continue;
      keep_result(call, item, s, v, head_of(v), chunk, s.chunk_largest[v], s.chunk_totals[v]);
    }
  }
  if (item.partial >= 0) return;
  for (int64_t v = 0; v < num_vectors; ++v) {
    float* out = call.out + (item.first_token + v % a_kv_head / group) * call.out_stride + head_of(v) * spec.head_dim;
    write_output(s.running + v * s.width, s.totals[v], out, spec.head_dim);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
