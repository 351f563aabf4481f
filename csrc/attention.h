// Paged attention over a ragged batch (paper, section 4.1): norms, rotation and KV write of new tokens, and causal attention of
// their queries over their rows' blocks.
//
// One algorithm on two paths. A chunk's scores are sums over the head's dimensions in order, its weights e^(score - the
// chunk's largest), their total a sum in a fixed order of lanes, its values sums over the slots in order. `attend_one`
// reads blocks straight into registers, for the single query of a decoding row; `attend_tile` widens a chunk to float32
// once for the many vectors of a prefill. Both give a query the same bits.
#pragma once

#include "attention_kernels.h"
#include "pointwise.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr float MINUS_INFINITY = -__builtin_inff();

OCTAVO_INLINE float load_scale(const uint8_t* scales, int64_t slot) {
  float scale;
  __builtin_memcpy(&scale, scales + slot * 4, sizeof scale);
  return scale;
}

OCTAVO_INLINE float exp_scalar(float x) {
  float lanes[LANES];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// ---- new tokens

// The Hugging Face convention: halves of the first rotary_dim dimensions (Su et al., RoFormer, 2021).
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

// Each head's RMS norm, in place.
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

template <class Element>
OCTAVO_INLINE void store_slot(const float* vector, int64_t size, typename Element::Stored* out, int64_t stride) {
  for (int64_t i = 0; i < size; i += LANES) {
    const int n = static_cast<int>(size - i < LANES ? size - i : LANES);
    typename Element::Stored lanes[LANES];
    Element::store16(lanes, n == LANES ? load(vector + i) : load_first(vector + i, n));
    for (int j = 0; j < n; ++j) out[(i + j) * stride] = lanes[j];
  }
}

// Symmetric int8 with the scale max|x| / 127.
OCTAVO_INLINE void store_slot_int8(const float* vector, int64_t size, int8_t* out, int64_t stride, uint8_t* scale_at) {
  float range = 0;
  for (int64_t i = 0; i < size; ++i) {
    const float magnitude = vector[i] < 0 ? -vector[i] : vector[i];
    range = magnitude > range ? magnitude : range;
  }
  const F32x16 inverse = set1(range > 0 ? 127.0f / range : 0.0f);
  for (int64_t i = 0; i < size; i += LANES) {
    const int n = static_cast<int>(size - i < LANES ? size - i : LANES);
    const F32x16 x = n == LANES ? load(vector + i) : load_first(vector + i, n);
    int8_t lanes[LANES];
    store_i8(lanes, min(max(round(x * inverse), set1(-127.0f)), set1(127.0f)));
    for (int j = 0; j < n; ++j) out[(i + j) * stride] = lanes[j];
  }
  const float scale = range / 127.0f;
  __builtin_memcpy(scale_at, &scale, sizeof scale);
}

template <class Element>
void write_token_as(const AttentionCall& call, int64_t token) {
  using Stored = typename Element::Stored;
  const AttentionSpec& spec = call.spec;
  const KVCacheView& cache = call.cache;
  float* query = call.qkv + token * call.qkv_stride;
  float* key = query + spec.num_heads * spec.head_dim;
  float* value = key + spec.num_kv_heads * spec.head_dim;
  normalise_heads(query, spec.num_heads, spec, spec.query_norm);
  normalise_heads(key, spec.num_kv_heads, spec, spec.key_norm);
  if (spec.cos_sin) {
    const float* cos_sin = spec.cos_sin + call.positions[token] * spec.rotary_dim;
    for (int64_t head = 0; head < spec.num_heads + spec.num_kv_heads; ++head) {
      rotate(query + head * spec.head_dim, cos_sin, spec.rotary_dim);
    }
  }
  const int64_t block = call.slots[token] / cache.block_size, slot = call.slots[token] % cache.block_size;
  for (int64_t head = 0; head < spec.num_kv_heads; ++head) {
    Stored* keys = reinterpret_cast<Stored*>(cache.keys(block, spec.layer, head)) + slot;
    Stored* values = reinterpret_cast<Stored*>(cache.values(block, spec.layer, head)) + slot * spec.head_dim;
    const float *k = key + head * spec.head_dim, *v = value + head * spec.head_dim;
    if constexpr (sizeof(Stored) == 1) {
      store_slot_int8(k, spec.head_dim, keys, cache.block_size, cache.key_scales(block, spec.layer, head) + slot * 4);
      store_slot_int8(v, spec.head_dim, values, 1, cache.value_scales(block, spec.layer, head) + slot * 4);
    } else {
      store_slot<Element>(k, spec.head_dim, keys, cache.block_size);
      store_slot<Element>(v, spec.head_dim, values, 1);
    }
  }
}

// ---- what the paths share

// A thread's scratch: for each query vector its scaled query, a chunk's sums and the running ones, and its scores; a
// chunk's keys and values widened to float32.
struct Scratch {
  int64_t width;
  float *queries, *sums, *running;     // [max_vectors, width]
  float *scores;                       // [max_vectors, CHUNK]
  float *keys, *values;                // [CHUNK, width], in panels: see `widen`
  float *key_scales, *value_scales;    // [CHUNK]
  float *largest, *totals;             // [max_vectors], running; a negative total: no chunk yet
  float *chunk_largest, *chunk_totals; // [max_vectors]; a negative total: nothing visible

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
    key_scales = take(CHUNK);
    value_scales = take(CHUNK);
    largest = take(vectors);
    totals = take(vectors);
    chunk_largest = take(vectors);
    chunk_totals = take(vectors);
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

// The slots [begin, end) of a chunk that a query at `position` sees.
struct Visible {
  int64_t begin, end;

  OCTAVO_INLINE Visible(const AttentionSpec& spec, int64_t position, int64_t chunk) {
    const int64_t start = chunk * CHUNK, oldest = spec.window > 0 ? position - spec.window + 1 - start : 0;
    begin = oldest > 0 ? oldest : 0;
    end = position + 1 - start < CHUNK ? position + 1 - start : CHUNK;
  }
  OCTAVO_INLINE bool is_empty() const { return begin >= end; }
};

// Lanes [begin, end) of x, and of `outside` elsewhere.
OCTAVO_INLINE F32x16 within(F32x16 x, int64_t begin, int64_t end, F32x16 outside) {
  if (end < LANES) x = first(end > 0 ? static_cast<int>(end) : 0, x, outside);
  if (begin > 0) x = first(begin < LANES ? static_cast<int>(begin) : LANES, outside, x);
  return x;
}

OCTAVO_INLINE F32x16 soft_capped(F32x16 scores, float softcap) {
  const F32x16 cap = set1(softcap), one = set1(1.0f), two = set1(2.0f);
  return cap * (one - two / (exp(two * scores / cap) + one));
}

// Turns a query's scores of a chunk into weights, in place, and tells their largest and their total. Slots up to `slots`,
// a multiple of 16 past the visible ones, get a weight of 0; what lay there may have been anything. With scales (int8) the
// keys' are applied to the scores, the values' to the weights.
__attribute__((noinline)) inline void soften(float* scores, int64_t slots, Visible seen, float softcap,
                                             const float* key_scales, const float* value_scales, float* largest,
                                             float* total) {
  F32x16 highest = set1(MINUS_INFINITY);
  const int64_t from = seen.begin / LANES * LANES;
  for (int64_t s = from; s < slots; s += LANES) {
    F32x16 part = load(scores + s);
    if (key_scales) part = part * load(key_scales + s);
    if (softcap > 0) part = soft_capped(part, softcap);
    part = within(part, seen.begin - s, seen.end - s, set1(MINUS_INFINITY));
    store(scores + s, part);
    highest = max(highest, part);
  }
  const float peak = max_lane(highest);
  F32x16 sum = zero();
  for (int64_t s = from; s < slots; s += LANES) {
    F32x16 weights = exp(load(scores + s) - set1(peak));
    sum = sum + weights;
    if (value_scales) weights = weights * within(load(value_scales + s), seen.begin - s, seen.end - s, zero());
    store(scores + s, weights);
  }
  *largest = peak;
  *total = sum_lanes(sum);
}

// Adds a chunk's result to what was reduced before it; a negative running total says that nothing was.
__attribute__((noinline)) inline void fold(float* running_largest, float* running_total, float* running, float largest,
                                           float total, const float* sums, int64_t width) {
  if (*running_total < 0) {
    *running_largest = largest;
    *running_total = total;
    for (int64_t d = 0; d < width; d += LANES) store(running + d, load(sums + d));
    return;
  }
  const float highest = largest > *running_largest ? largest : *running_largest;
  const float old_factor = exp_scalar(*running_largest - highest), new_factor = exp_scalar(largest - highest);
  *running_largest = highest;
  *running_total = *running_total * old_factor + total * new_factor;
  for (int64_t d = 0; d < width; d += LANES) {
    store(running + d, fma(load(running + d), set1(old_factor), load(sums + d) * set1(new_factor)));
  }
}

OCTAVO_INLINE void write_output(const float* running, float total, float* out, int64_t head_dim) {
  const F32x16 divisor = set1(total);
  for (int64_t d = 0; d < head_dim; d += LANES) {
    const F32x16 result = load(running + d) / divisor;
    if (head_dim - d >= LANES) {
      store(out + d, result);
    } else {
      store_first(out + d, result, static_cast<int>(head_dim - d));
    }
  }
}

// Keeps a chunk's result of one head: folded, or apart for `merge` where other items have other chunks of the row.
OCTAVO_INLINE void keep_result(const AttentionCall& call, const AttentionItem& item, const Scratch& s, int64_t vector,
                               int64_t head, int64_t chunk, float largest, float total) {
  const float* sums = s.sums + vector * s.width;
  if (item.partial < 0) {
    fold(s.largest + vector, s.totals + vector, s.running + vector * s.width, largest, total, sums, s.width);
    return;
  }
  float* partial = call.partials +
                   ((item.partial + chunk - item.chunk_begin) * call.spec.num_heads + head) * call.spec.partial_size();
  partial[0] = largest;
  partial[1] = total;
  for (int64_t d = 0; d < s.width; d += LANES) store(partial + LANES + d, load(sums + d));
}

inline void merge(const AttentionCall& call, const AttentionMerge& m) {
  const AttentionSpec& spec = call.spec;
  const int64_t width = spec.width();
  for (int64_t head = 0; head < spec.num_heads; ++head) {
    float* running = nullptr;
    for (int64_t i = 0; i < m.num_partials; ++i) {
      float* partial = call.partials + ((m.first_partial + i) * spec.num_heads + head) * spec.partial_size();
      if (partial[1] < 0) continue;
      if (running) {
        fold(running, running + 1, running + LANES, partial[0], partial[1], partial + LANES, width);
      } else {
        running = partial;
      }
    }
    write_output(running + LANES, running[1], call.out + m.token * call.out_stride + head * spec.head_dim,
                 spec.head_dim);
  }
}

// ---- a tile: many vectors, a chunk widened once

// c[m, n] = sum over k of a[m, k] * b[k, n], k in order. b lies in panels of LANES columns, each [depth][LANES] and so in the
// nearest cache while the rows go by; `panel` is the distance of two.
template <int ROWS, int PANELS>
OCTAVO_INLINE void small_tile(const float* a, int64_t lda, const float* b, int64_t panel, int64_t depth, float* c,
                              int64_t ldc) {
  F32x16 sums[ROWS][PANELS];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < PANELS; ++n) sums[r][n] = zero();
  for (int64_t k = 0; k < depth; ++k) {
    F32x16 row[PANELS];
#pragma GCC unroll 2
    for (int n = 0; n < PANELS; ++n) row[n] = load(b + n * panel + k * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const F32x16 factor = set1(a[r * lda + k]);
#pragma GCC unroll 2
      for (int n = 0; n < PANELS; ++n) {
        sums[r][n] = fma(row[n], factor, sums[r][n]);
        pin(sums[r][n]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int n = 0; n < PANELS; ++n) store(c + r * ldc + n * LANES, sums[r][n]);
}

template <int PANELS>
void small_panels(const float* a, int64_t lda, int64_t rows, const float* b, int64_t panel, int64_t depth, float* c,
                  int64_t ldc) {
  constexpr int SOME = MAX_ROWS / 3 > 1 ? MAX_ROWS / 3 : 1;
  int64_t m = 0;
  for (; m + MAX_ROWS <= rows; m += MAX_ROWS) {
    small_tile<MAX_ROWS, PANELS>(a + m * lda, lda, b, panel, depth, c + m * ldc, ldc);
  }
  for (; m + SOME <= rows; m += SOME) small_tile<SOME, PANELS>(a + m * lda, lda, b, panel, depth, c + m * ldc, ldc);
  for (; m < rows; ++m) small_tile<1, PANELS>(a + m * lda, lda, b, panel, depth, c + m * ldc, ldc);
}

// `columns` is a multiple of LANES.
inline void small_product(const float* a, int64_t lda, int64_t rows, const float* b, int64_t panel, int64_t depth, float* c,
                          int64_t ldc, int64_t columns) {
  int64_t n = 0;
  for (; n + MIN_HALVES * LANES <= columns; n += MIN_HALVES * LANES) {
    small_panels<MIN_HALVES>(a, lda, rows, b + n / LANES * panel, panel, depth, c + n, ldc);
  }
  if (n < columns) small_panels<1>(a, lda, rows, b + n / LANES * panel, panel, depth, c + n, ldc);
}

// A chunk's keys, values and scales of one KV head as float32, for the slots [begin, end); begin is a multiple of 16. Keys
// lie in panels of 16 slots, [CHUNK / 16][width][16], values in panels of 16 dimensions, [width / 16][CHUNK][16].
// Keys are widened to whole vectors past `end`: their scores are hidden. Values are not: a weight of 0 hides no NaN.
template <class Element>
OCTAVO_INLINE void widen(const AttentionCall& call, const AttentionItem& item, const Scratch& s, int64_t kv_head,
                         int64_t chunk, int64_t begin, int64_t end) {
  using Stored = typename Element::Stored;
  const KVCacheView& cache = call.cache;
  const int64_t layer = call.spec.layer, head_dim = call.spec.head_dim, size = cache.block_size;
  const int64_t* table = call.block_tables + item.table * call.max_blocks;
  for (int64_t slot = begin; slot < end;) {
    const int64_t position = chunk * CHUNK + slot, block = table[position / size], offset = position % size;
    const int64_t count = size - offset < end - slot ? size - offset : end - slot;
    const Stored* keys = reinterpret_cast<const Stored*>(cache.keys(block, layer, kv_head)) + offset;
    const Stored* values = reinterpret_cast<const Stored*>(cache.values(block, layer, kv_head)) + offset * head_dim;
    if (size % LANES == 0) {
      for (int64_t i = 0; i < count; i += LANES) {
        float* to = s.keys + (slot + i) * s.width;
        for (int64_t d = 0; d < head_dim; ++d) store(to + d * LANES, Element::load16(keys + d * size + i));
      }
    } else {
      for (int64_t d = 0; d < head_dim; ++d) {
        for (int64_t i = 0; i < count; ++i) {
          Stored lanes[LANES] = {keys[d * size + i]};
          float wide[LANES];
          store(wide, Element::load16(lanes));
          s.keys[(slot + i) / LANES * LANES * s.width + d * LANES + (slot + i) % LANES] = wide[0];
        }
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const Stored* from = values + i * head_dim;
      float* to = s.values + (slot + i) * LANES;
      int64_t d = 0;
      for (; d + LANES <= head_dim; d += LANES) store(to + d * CHUNK, Element::load16(from + d));
      if (d < head_dim) {
        Stored lanes[LANES] = {};
        for (int64_t j = d; j < head_dim; ++j) lanes[j - d] = from[j];
        store(to + d * CHUNK, Element::load16(lanes));
      }
    }
    if (cache.has_scales) {
      const uint8_t *key_scales = cache.key_scales(block, layer, kv_head) + offset * 4,
                    *value_scales = cache.value_scales(block, layer, kv_head) + offset * 4;
      __builtin_memcpy(s.key_scales + slot, key_scales, static_cast<size_t>(count) * 4);
      __builtin_memcpy(s.value_scales + slot, value_scales, static_cast<size_t>(count) * 4);
    }
    slot += count;
  }
}

template <class Element>
void attend_tile(const AttentionCall& call, const AttentionItem& item, float* memory) {
  const AttentionSpec& spec = call.spec;
  const Scratch s(memory, spec);
  const int64_t group = spec.group(), num_vectors = item.num_queries * group, head_dim = spec.head_dim;
  const int64_t last_position = item.first_position + item.num_queries - 1;
  const float* key_scales = call.cache.has_scales ? s.key_scales : nullptr;
  const float* value_scales = call.cache.has_scales ? s.value_scales : nullptr;
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
    gather_queries(call, item, kv_head, s.width, s.queries);
    for (int64_t v = 0; v < num_vectors; ++v) s.totals[v] = -1;
    for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
      const int64_t oldest = Visible(spec, item.first_position, chunk).begin, begin = oldest / LANES * LANES;
      const int64_t end = Visible(spec, last_position, chunk).end;
      const int64_t slots = (end + LANES - 1) / LANES * LANES;
      if (begin < end) {
        widen<Element>(call, item, s, kv_head, chunk, begin, end);
        small_product(s.queries, s.width, num_vectors, s.keys + begin * s.width, s.width * LANES, head_dim,
                      s.scores + begin, CHUNK, slots - begin);
      }
      for (int64_t v = 0; v < num_vectors; ++v) {
        const Visible seen(spec, item.first_position + v / group, chunk);
        float* scores = s.scores + v * CHUNK;
        s.chunk_totals[v] = -1;
        if (seen.is_empty()) {
          for (int64_t i = begin; i < slots; i += LANES) store(scores + i, zero());
        } else {
          for (int64_t i = begin; i < seen.begin / LANES * LANES; i += LANES) store(scores + i, zero());
          soften(scores, slots, seen, spec.softcap, key_scales, value_scales, s.chunk_largest + v, s.chunk_totals + v);
        }
      }
      if (begin < end) {
        // What lies before the oldest slot that is seen may be another sequence's: a weight of 0 hides no NaN.
        small_product(s.scores + oldest, CHUNK, num_vectors, s.values + oldest * LANES, CHUNK * LANES, end - oldest, s.sums,
                      s.width, s.width);
      }
      for (int64_t v = 0; v < num_vectors; ++v) {
        if (s.chunk_totals[v] < 0 && item.partial < 0) continue;
        keep_result(call, item, s, v, kv_head * group + v % group, chunk, s.chunk_largest[v], s.chunk_totals[v]);
      }
    }
    if (item.partial >= 0) continue;
    for (int64_t v = 0; v < num_vectors; ++v) {
      float* out = call.out + (item.first_token + v / group) * call.out_stride + (kv_head * group + v % group) * head_dim;
      write_output(s.running + v * s.width, s.totals[v], out, head_dim);
    }
  }
}

// ---- one query: blocks straight into registers

// Vectors of slots, or of values, that so many heads sum together: independent chains, as many as the registers hold.
#if defined(__AVX512F__)
constexpr int vectors_for(int) { return 4; }
#elif defined(__AVX2__)
constexpr int vectors_for(int heads) { return heads > 3 ? 1 : heads == 1 ? 4 : 2; }
#else
constexpr int vectors_for(int) { return 1; }
#endif
constexpr int64_t PIECES = CHUNK / LANES;
constexpr int MAX_DIRECT_HEADS = 6;  // of a group, that read a key or value together

// Where the slots of a chunk lie that an item's query sees, sixteen by sixteen: the layer's part of their record, and the
// place in the block. Those in [first, last) are of slots that are seen, at least one: items have no other chunks.
struct Pieces {
  Visible seen;
  int64_t first, last;
  const uint8_t* layer[PIECES];
  int64_t offset[PIECES];

  OCTAVO_INLINE Pieces(const AttentionCall& call, const AttentionItem& item, int64_t chunk)
      : seen(call.spec, item.first_position, chunk),
        first(seen.begin / LANES),
        last((seen.end + LANES - 1) / LANES) {
    const int64_t size = call.cache.block_size, position = chunk * CHUNK + first * LANES;
    const int64_t* block = call.block_tables + item.table * call.max_blocks + position / size;
    int64_t place = position % size;
    for (int64_t i = first; i < last; ++i) {
      layer[i] = call.cache.keys(*block, call.spec.layer, 0);
      offset[i] = place;
      place += LANES;
      if (place == size) {
        place = 0;
        ++block;
      }
    }
  }
};

// Brings what is read next nearer, in the order of its addresses, however it is read: memory is slow to leave for another
// page. Goes over the same part of each of a chunk's blocks, the keys or the values of an item's heads.
class Fetcher {
 public:
  OCTAVO_INLINE Fetcher(const AttentionCall& call, const AttentionItem& item, const Pieces& pieces, bool is_values)
      : pieces_(pieces), piece_(pieces.first), pieces_a_block_(call.cache.block_size / LANES) {
    const int64_t head_bytes = call.cache.head_bytes();
    start_ = (item.kv_head_begin + (is_values ? call.spec.num_kv_heads : 0)) * head_bytes;
    size_ = (item.kv_head_end - item.kv_head_begin) * head_bytes;
    enter();
  }
  // The next so many bytes, if they are in one block; at the end, again the last ones.
  OCTAVO_INLINE const uint8_t* take(int64_t bytes) {
    if (at_ + bytes > end_) {
      if (piece_ + pieces_a_block_ >= pieces_.last) return at_;
      piece_ += pieces_a_block_;
      enter();
    }
    const uint8_t* taken = at_;
    at_ += bytes;
    return taken;
  }

 private:
  OCTAVO_INLINE void enter() {
    at_ = pieces_.layer[piece_] + start_;
    end_ = at_ + size_;
  }

  const Pieces& pieces_;
  int64_t piece_, pieces_a_block_, start_, size_;
  const uint8_t *at_, *end_;
};

template <class Element>
struct Direct {
  using Stored = typename Element::Stored;

  // Scores of VECTORS pieces; meanwhile as many bytes are brought nearer.
  template <int HEADS, int VECTORS>
  static OCTAVO_INLINE void score(const Stored* const* keys, int64_t stride, int64_t depth, const float* queries,
                                  int64_t width, float* scores, Fetcher& fetcher) {
    constexpr int64_t bytes = VECTORS * LANES * sizeof(Stored);
    F32x16 sums[HEADS][VECTORS];
#pragma GCC unroll 6
    for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sums[h][v] = zero();
    for (int part = 0; part < VECTORS; ++part) {
      const int64_t begin = depth * part / VECTORS, end = depth * (part + 1) / VECTORS;
      const uint8_t* near = fetcher.take((end - begin) * bytes);
      for (int64_t d = begin; d < end; ++d) {
#pragma GCC unroll 4
        for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(near + line, 0, 2);
        near += bytes;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
          const F32x16 key = Element::load16_mixed(keys[v] + d * stride);
          const float* factors = reread(queries + d);
#pragma GCC unroll 6
          for (int h = 0; h < HEADS; ++h) {
            sums[h][v] = fma(key, set1(factors[h * width]), sums[h][v]);
            pin(sums[h][v]);
          }
        }
      }
    }
#pragma GCC unroll 6
    for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) store(scores + h * CHUNK + v * LANES, Element::in_order(sums[h][v]));
  }

  // Weighted sums of VECTORS vectors of the values; meanwhile as many bytes are brought nearer.
  template <int HEADS, int VECTORS>
  static OCTAVO_INLINE void add_values(const Stored* const* values, int64_t first_dim, int64_t head_dim, Visible seen,
                                       const float* weights, float* sums, int64_t width, Fetcher& fetcher) {
    constexpr int64_t bytes = VECTORS * LANES * sizeof(Stored);
    F32x16 acc[HEADS][VECTORS];
#pragma GCC unroll 6
    for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) acc[h][v] = zero();
    for (int64_t slot = seen.begin; slot < seen.end;) {
      const int64_t piece = slot / LANES, offset = slot % LANES;
      const int64_t count = LANES - offset < seen.end - slot ? LANES - offset : seen.end - slot;
      const Stored* from = values[piece] + offset * head_dim + first_dim;
      const uint8_t* near = fetcher.take(LANES * bytes);
      for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
        for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(near + i * bytes + line, 0, 2);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
          const F32x16 value = Element::load16_mixed(from + i * head_dim + v * LANES);
          const float* factors = reread(weights + slot + i);
#pragma GCC unroll 6
          for (int h = 0; h < HEADS; ++h) {
            acc[h][v] = fma(value, set1(factors[h * CHUNK]), acc[h][v]);
            pin(acc[h][v]);
          }
        }
      }
      slot += count;
    }
#pragma GCC unroll 6
    for (int h = 0; h < HEADS; ++h)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        store(sums + first_dim + h * width + v * LANES, Element::in_order(acc[h][v]));
      }
  }

  // The scores of HEADS heads of one KV head over one chunk; vectors are rows of the scratch from `vector` on.
  template <int HEADS>
  static void score_chunk(const AttentionCall& call, const Pieces& pieces, const Scratch& s, int64_t vector,
                          int64_t kv_head, Fetcher& fetcher) {
    constexpr int VECTORS = vectors_for(HEADS);
    const int64_t size = call.cache.block_size, head_dim = call.spec.head_dim;
    const Stored* keys[PIECES];
    for (int64_t i = pieces.first; i < pieces.last; ++i) {
      const uint8_t* at = pieces.layer[i] + kv_head * call.cache.head_bytes();
      keys[i] = reinterpret_cast<const Stored*>(at) + pieces.offset[i];
    }
    const float* queries = s.queries + vector * s.width;
    float* scores = s.scores + vector * CHUNK;
    int64_t i = pieces.first;
    for (; i + VECTORS <= pieces.last; i += VECTORS) {
      score<HEADS, VECTORS>(keys + i, size, head_dim, queries, s.width, scores + i * LANES, fetcher);
    }
    for (; i < pieces.last; ++i) {
      score<HEADS, 1>(keys + i, size, head_dim, queries, s.width, scores + i * LANES, fetcher);
    }
  }

  // The weighted sums of values, likewise.
  template <int HEADS>
  static void add_chunk(const AttentionCall& call, const Pieces& pieces, const Scratch& s, int64_t vector,
                        int64_t kv_head, Fetcher& fetcher) {
    constexpr int VECTORS = vectors_for(HEADS);
    const int64_t head_dim = call.spec.head_dim;
    const Stored* values[PIECES];
    for (int64_t i = pieces.first; i < pieces.last; ++i) {
      const uint8_t* at = pieces.layer[i] + (call.spec.num_kv_heads + kv_head) * call.cache.head_bytes();
      values[i] = reinterpret_cast<const Stored*>(at) + pieces.offset[i] * head_dim;
    }
    const float* weights = s.scores + vector * CHUNK;
    float* sums = s.sums + vector * s.width;
    int64_t d = 0;
    for (; d + VECTORS * LANES <= head_dim; d += VECTORS * LANES) {
      add_values<HEADS, VECTORS>(values, d, head_dim, pieces.seen, weights, sums, s.width, fetcher);
    }
    for (; d < head_dim; d += LANES) {
      add_values<HEADS, 1>(values, d, head_dim, pieces.seen, weights, sums, s.width, fetcher);
    }
  }

  static void soften_chunk(const AttentionCall& call, const Pieces& pieces, const Scratch& s, int64_t vector,
                           int64_t kv_head) {
    const KVCacheView& cache = call.cache;
    const float *key_scales = nullptr, *value_scales = nullptr;
    if (cache.has_scales) {
      for (int64_t i = pieces.first; i < pieces.last; ++i) {
        const uint8_t* at = pieces.layer[i] + 2 * call.spec.num_kv_heads * cache.head_bytes() +
                            (kv_head * cache.block_size + pieces.offset[i]) * 4;
        __builtin_memcpy(s.key_scales + i * LANES, at, LANES * 4);
        __builtin_memcpy(s.value_scales + i * LANES, at + call.spec.num_kv_heads * cache.block_size * 4, LANES * 4);
      }
      key_scales = s.key_scales;
      value_scales = s.value_scales;
    }
    for (int64_t v = vector; v < vector + call.spec.group(); ++v) {
      soften(s.scores + v * CHUNK, pieces.last * LANES, pieces.seen, call.spec.softcap, key_scales, value_scales,
             s.chunk_largest + v, s.chunk_totals + v);
    }
  }

  using Part = void (*)(const AttentionCall&, const Pieces&, const Scratch&, int64_t, int64_t, Fetcher&);

  // Call for the heads of a group, in parts of even size; `parts` by their number of heads, from 1 on.
  static OCTAVO_INLINE void by_parts(const Part* parts, const AttentionCall& call, const Pieces& pieces, const Scratch& s,
                                     int64_t vector, int64_t kv_head, Fetcher& fetcher) {
    const int64_t group = call.spec.group(), num_parts = (group + MAX_DIRECT_HEADS - 1) / MAX_DIRECT_HEADS;
    for (int64_t part = 0; part < num_parts; ++part) {
      const int64_t head = group * part / num_parts, heads = group * (part + 1) / num_parts - head;
      parts[heads - 1](call, pieces, s, vector + head, kv_head, fetcher);
    }
  }

  // One chunk for all of an item's heads: first the keys, which brings the values nearer, then those, which brings the
  // keys that follow nearer.
  static OCTAVO_INLINE void chunk(const AttentionCall& call, const AttentionItem& item, const Pieces& pieces,
                                  const AttentionItem& next_item, const Pieces& next_pieces, const Scratch& s) {
    static constexpr Part scores[] = {score_chunk<1>, score_chunk<2>, score_chunk<3>,
                                      score_chunk<4>, score_chunk<5>, score_chunk<6>};
    static constexpr Part sums[] = {add_chunk<1>, add_chunk<2>, add_chunk<3>, add_chunk<4>, add_chunk<5>, add_chunk<6>};
    const int64_t group = call.spec.group();
    Fetcher values(call, item, pieces, true), keys(call, next_item, next_pieces, false);
    for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
      const int64_t vector = (kv_head - item.kv_head_begin) * group;
      by_parts(scores, call, pieces, s, vector, kv_head, values);
      soften_chunk(call, pieces, s, vector, kv_head);
    }
    for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
      by_parts(sums, call, pieces, s, (kv_head - item.kv_head_begin) * group, kv_head, keys);
    }
  }
};

template <class Element>
void attend_one(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  const AttentionSpec& spec = call.spec;
  const Scratch s(memory, spec);
  const int64_t group = spec.group(), first_head = item.kv_head_begin * group;
  const int64_t num_vectors = (item.kv_head_end - item.kv_head_begin) * group;
  for (int64_t kv_head = item.kv_head_begin; kv_head < item.kv_head_end; ++kv_head) {
    gather_queries(call, item, kv_head, s.width, s.queries + (kv_head * group - first_head) * s.width);
  }
  for (int64_t v = 0; v < num_vectors; ++v) s.totals[v] = -1;
  Pieces pieces(call, item, item.chunk_begin);
  for (int64_t chunk = item.chunk_begin; chunk < item.chunk_end; ++chunk) {
    const bool is_over = chunk + 1 == item.chunk_end;
    const AttentionItem& next_item = is_over ? next : item;
    const int64_t next_chunk = is_over ? next.chunk_begin : chunk + 1;
    const Pieces next_pieces(call, next_item, next_chunk);
    Direct<Element>::chunk(call, item, pieces, next_item, next_pieces, s);
    for (int64_t v = 0; v < num_vectors; ++v) {
      keep_result(call, item, s, v, first_head + v, chunk, s.chunk_largest[v], s.chunk_totals[v]);
    }
    pieces = next_pieces;
  }
  if (item.partial >= 0) return;
  for (int64_t v = 0; v < num_vectors; ++v) {
    float* out = call.out + item.first_token * call.out_stride + (first_head + v) * spec.head_dim;
    write_output(s.running + v * s.width, s.totals[v], out, spec.head_dim);
  }
}

template <class Element>
void attend_as(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  const bool is_direct =
      item.num_queries == 1 && call.cache.block_size % LANES == 0 && call.spec.head_dim % LANES == 0;
  if (is_direct) {
    attend_one<Element>(call, item, next, memory);
  } else {
    attend_tile<Element>(call, item, memory);
  }
}

inline void attend(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  switch (call.cache_type) {
    case DataType::float32: return attend_as<Float32>(call, item, next, memory);
    case DataType::bfloat16: return attend_as<BFloat16>(call, item, next, memory);
    case DataType::float16: return attend_as<Float16>(call, item, next, memory);
    case DataType::int8: return attend_as<Int8>(call, item, next, memory);
  }
}

inline void write_token(const AttentionCall& call, int64_t token) {
  switch (call.cache_type) {
    case DataType::float32: return write_token_as<Float32>(call, token);
    case DataType::bfloat16: return write_token_as<BFloat16>(call, token);
    case DataType::float16: return write_token_as<Float16>(call, token);
    case DataType::int8: return write_token_as<Int8>(call, token);
  }
}

inline AttentionKernels attention_kernels() { return {write_token, attend, merge}; }

}  // namespace OCTAVO_ISA
}  // namespace octavo
