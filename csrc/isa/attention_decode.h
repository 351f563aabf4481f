// The decode path of attention, for the single query of a row: pieces straight into registers, without widening a chunk
// first. The heads of a group read a key or a value together.
//
//   scores [group, CHUNK] = queries [group, head_dim] * keys [head_dim][LANES] of each piece
//   sums   [group, width] = weights [group, CHUNK] * values [LANES][width] of each piece
#pragma once

#include "attention_item.h"
#include "attention_pieces.h"
#include "register_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

template <class Element>
struct Decode {
  using Stored = typename Element::Stored;
  // Bytes of so many vectors.
  static constexpr int64_t bytes_of(int vectors) { return vectors * LANES * static_cast<int64_t>(sizeof(Stored)); }

  // `factors` has one for each head, `stride` apart.
  template <int HEADS, int VECTORS, int COUNT>
  static OCTAVO_INLINE void add_products(F32x16 (&sums)[HEADS][VECTORS], int v, const F32x16 (&vectors)[COUNT],
                                         const float* factors, int64_t stride) {
    multiply_add(sums, v, vectors, [&](int h) { return factors[h * stride]; });
  }

  // Scores of VECTORS pieces, DIMS dimensions an iteration, which lie together; meanwhile as many bytes are fetched.
  //   keys     [VECTORS] pointers to [depth][stride], of which sixteen slots are read
  //   queries  [HEADS, width]
  //   scores   [HEADS, CHUNK], sixteen for each piece
  template <int HEADS, int VECTORS, int DIMS>
  static OCTAVO_INLINE void score(const Stored* const* keys, int64_t stride, int64_t depth, const float* queries,
                                  int64_t width, float* scores, Ahead* ahead) {
    static_assert(LANES % (VECTORS * DIMS) == 0, "a part of whole vectors is whole iterations");
    constexpr int64_t BYTES = bytes_of(VECTORS);
    F32x16 sums[HEADS][VECTORS];
    clear(sums);
    for (int part = 0; part < VECTORS; ++part) {
      const int64_t begin = depth * part / VECTORS, end = depth * (part + 1) / VECTORS;
      const uint8_t* near = take(ahead, (end - begin) * BYTES, keys[0]);
      for (int64_t d = begin; d < end; d += DIMS) {
        prefetch_lines(near, DIMS * BYTES);
        near += DIMS * BYTES;
        OCTAVO_UNROLL
        for (int v = 0; v < VECTORS; ++v) {
          F32x16 key[DIMS];
          load_mixed<Element>(keys[v] + d * stride, key);
          OCTAVO_UNROLL
          for (int i = 0; i < DIMS; ++i) {
            const F32x16 vector[] = {key[i]};
            const float* query = reread(queries + d + i);
            add_products(sums, v, vector, query, width);
          }
        }
      }
    }
    OCTAVO_UNROLL
    for (int h = 0; h < HEADS; ++h) {
      OCTAVO_UNROLL
      for (int v = 0; v < VECTORS; ++v) store(scores + h * CHUNK + v * LANES, Element::in_order(sums[h][v]));
    }
  }

  // Weighted sums of VECTORS vectors of the values, from `first_dim` on; meanwhile as many bytes are fetched.
  //   weights  [HEADS, CHUNK]
  //   sums     [HEADS, width]
  template <int HEADS, int VECTORS>
  static OCTAVO_INLINE void add_values(const HeadPieces& values, int64_t first_dim, const float* weights, float* sums,
                                       int64_t width, Ahead* ahead) {
    constexpr int64_t BYTES = bytes_of(VECTORS);
    constexpr int AT_ONCE = VECTORS % Element::AT_ONCE == 0 ? Element::AT_ONCE : 1;
    F32x16 tile[HEADS][VECTORS];
    clear(tile);
    const int64_t end = values.seen.end, stride = values.stride / static_cast<int64_t>(sizeof(Stored));
    for (int64_t slot = values.seen.begin; slot < end;) {
      const int64_t offset = slot % LANES, count = LANES - offset < end - slot ? LANES - offset : end - slot;
      const Stored* from = reinterpret_cast<const Stored*>(values.at[slot / LANES]) + offset * stride + first_dim;
      const uint8_t* near = take(ahead, LANES * BYTES, from);
      for (int64_t i = 0; i < count; ++i) {
        prefetch_lines(near + i * BYTES, BYTES);
        OCTAVO_UNROLL
        for (int v = 0; v < VECTORS; v += AT_ONCE) {
          F32x16 value[AT_ONCE];
          load_mixed<Element>(from + i * stride + v * LANES, value);
          const float* weight = reread(weights + slot + i);
          add_products(tile, v, value, weight, CHUNK);
        }
      }
      slot += count;
    }
    OCTAVO_UNROLL
    for (int h = 0; h < HEADS; ++h) {
      OCTAVO_UNROLL
      for (int v = 0; v < VECTORS; ++v) {
        store(sums + first_dim + h * width + v * LANES, Element::in_order(tile[h][v]));
      }
    }
  }

  // The scores of HEADS heads over a chunk's keys; vectors are rows of the scratch from `vector` on.
  template <int HEADS>
  static void score_chunk(const HeadPieces& keys, const Scratch& s, int64_t head_dim, int64_t vector, Ahead* ahead) {
    // Where a key's sixteen slots lie beside the next dimension's, and the depth is whole vectors.
    if (keys.stride == bytes_of(1) && head_dim == s.width) {
      score_pieces<HEADS, Element::AT_ONCE>(keys, s, head_dim, vector, ahead);
    } else {
      score_pieces<HEADS, 1>(keys, s, head_dim, vector, ahead);
    }
  }

  template <int HEADS, int DIMS>
  static OCTAVO_INLINE void score_pieces(const HeadPieces& keys, const Scratch& s, int64_t head_dim, int64_t vector,
                                         Ahead* ahead) {
    constexpr int VECTORS = vectors_for(HEADS);
    const int64_t stride = keys.stride / static_cast<int64_t>(sizeof(Stored));
    const auto* at = reinterpret_cast<const Stored* const*>(keys.at);
    const float* queries = s.queries + vector * s.width;
    float* scores = s.scores + vector * CHUNK;
    int64_t i = keys.first;
    for (; i + VECTORS <= keys.last; i += VECTORS) {
      score<HEADS, VECTORS, DIMS>(at + i, stride, head_dim, queries, s.width, scores + i * LANES, ahead);
    }
    for (; i < keys.last; ++i) {
      score<HEADS, 1, DIMS>(at + i, stride, head_dim, queries, s.width, scores + i * LANES, ahead);
    }
  }

  // The weighted sums of values, likewise.
  template <int HEADS>
  static void add_chunk(const HeadPieces& values, const Scratch& s, int64_t, int64_t vector, Ahead* ahead) {
    constexpr int VECTORS = vectors_for(HEADS);
    const float* weights = s.scores + vector * CHUNK;
    float* sums = s.sums + vector * s.width;
    int64_t d = 0;
    for (; d + VECTORS * LANES <= s.width; d += VECTORS * LANES) {
      add_values<HEADS, VECTORS>(values, d, weights, sums, s.width, ahead);
    }
    for (; d < s.width; d += LANES) add_values<HEADS, 1>(values, d, weights, sums, s.width, ahead);
  }

  using ChunkFunction = void (*)(const HeadPieces&, const Scratch&, int64_t head_dim, int64_t vector, Ahead*);
  // By the number of heads less one.
  static constexpr ChunkFunction SCORES[MAX_HEADS] = {score_chunk<1>, score_chunk<2>, score_chunk<3>, score_chunk<4>,
                                                      score_chunk<5>, score_chunk<6>, score_chunk<7>, score_chunk<8>};
  static constexpr ChunkFunction SUMS[MAX_HEADS] = {add_chunk<1>, add_chunk<2>, add_chunk<3>, add_chunk<4>,
                                                    add_chunk<5>, add_chunk<6>, add_chunk<7>, add_chunk<8>};

  // Calls one of `functions` for the heads of a group, in parts.
  static OCTAVO_INLINE void by_parts(const ChunkFunction* functions, const AttentionSpec& spec, const HeadPieces& pieces,
                                     const Scratch& s, int64_t vector, Ahead* ahead) {
    for_parts(spec.group(), ahead, [&](int64_t head, int64_t heads, Ahead* own_ahead) {
      functions[heads - 1](pieces, s, spec.head_dim, vector + head, own_ahead);
    });
  }
};

// The softmax of a chunk for the heads of one KV head, in place.
inline void softmax_group(const AttentionCall& call, const Pieces& pieces, const Scratch& s, int64_t vector) {
  for (int64_t v = vector; v < vector + call.spec.group(); ++v) {
    softmax_chunk(s.scores + v * CHUNK, pieces.last * LANES, pieces.seen, call.spec.softcap, nullptr,
                  s.chunk_largest + v, s.chunk_totals + v, [] {});
  }
}

template <class Element>
void attend_decode(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  using Kernels = Decode<Element>;
  const AttentionSpec& spec = call.spec;
  const Scratch s(memory, spec);
  const int64_t group = spec.group(), first_head = item.kv_head_begin * group;
  const int64_t num_vectors = (item.kv_head_end - item.kv_head_begin) * group;
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
    gather_queries(call, item, kv_head, s.width, s.queries + (kv_head * group - first_head) * s.width);
  }
  for (int64_t v = 0; v < num_vectors; ++v) s.totals[v] = NOTHING_VISIBLE;
  Ahead following(call, item, next);
  Ahead* ahead = Pieces::are_in_place(call) ? &following : nullptr;
  for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
    const Pieces pieces(call, item, chunk, s);
    for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
      const int64_t vector = kv_head * group - first_head;
      Kernels::by_parts(Kernels::SCORES, spec, pieces.keys(kv_head), s, vector, ahead);
      softmax_group(call, pieces, s, vector);
    }
    for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
      Kernels::by_parts(Kernels::SUMS, spec, pieces.values(kv_head), s, kv_head * group - first_head, ahead);
    }
    for (int64_t v = 0; v < num_vectors; ++v) {
      keep_result(call, item, s, v, first_head + v, chunk, s.chunk_largest[v], s.chunk_totals[v]);
    }
  }
  if (item.partial >= 0) return;
  for (int64_t v = 0; v < num_vectors; ++v) {
    float* out = call.out + item.first_token * call.out_stride + (first_head + v) * spec.head_dim;
    write_output(s.running + v * s.width, s.totals[v], out, spec.head_dim);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
