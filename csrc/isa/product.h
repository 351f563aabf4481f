// Products of activations with a packed weight, and what prepares activations for the int8 one.
//
// A micro kernel holds the sums of ROWS rows by some halves of panels in registers while it goes over all inputs once; so a
// weight is read from memory once for up to MAX_ROWS rows, from the nearest cache for those after them, and each output is one chain of multiply-adds over its inputs in
// order, whatever the batch.
#pragma once

#include "../kernels.h"
#include "register_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

// Sixteen activations of an int8 product, whole numbers from -127 to 127, as the product takes them, and what the integer
// sums over them start at, exact in float32.
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// Each quad's four magnitudes, then four bytes that, by exclusive or, make of unsigned weights w + 128 signed ones: w for
// an activation of 0 or more, -w - 1 for a negative one. Each of these misses its magnitude: sums start there.
constexpr Form INT8_FORM = Form::int8_split;
using Quantized = uint16_t;
OCTAVO_INLINE void store_quantized(uint16_t* p, F32x16 a) {
  const __m128i values = to_i8(a);
  const __m128i magnitudes = _mm_abs_epi8(values), is_negative = _mm_cmpgt_epi8(_mm_setzero_si128(), values);
  const __m128i signs = _mm_xor_si128(is_negative, _mm_set1_epi8(-128));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(magnitudes, signs));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm_unpackhi_epi32(magnitudes, signs));
}
OCTAVO_INLINE F32x16 start_from(F32x16 a) { return max(zero() - a, zero()); }
#else
// The unsigned weight is the true one plus 128.
constexpr Form INT8_FORM = Form::int8;
using Quantized = int8_t;
OCTAVO_INLINE void store_quantized(int8_t* p, F32x16 a) { store_i8(p, a); }
OCTAVO_INLINE F32x16 start_from(F32x16 a) { return a * set1(-128.0f); }
#endif

// Rows of an activation matrix, taken in order or by a list.
template <class T>
struct RowPointers {
  const T* x;
  int64_t stride;
  const int64_t* rows;
  OCTAVO_INLINE const T* operator[](int64_t row) const { return x + (rows ? rows[row] : row) * stride; }
};

// Sixteen outputs of a row, with their bias; those past the last one are left out. `half` counts the halves of panels.
OCTAVO_INLINE void store_outputs(const Product& p, int64_t row, int64_t half, F32x16 values) {
  const int64_t output = half * LANES, left = p.weight->num_outputs - output;
  float* out = p.out + row * p.out_stride + output;
  if (left >= LANES) {
    if (p.bias) values = values + load(p.bias + output);
    store(out, values);
  } else if (left > 0) {
    const int some = static_cast<int>(left);
    if (p.bias) values = values + load_first(p.bias + output, some);
    store_first(out, values, some);
  }
}

OCTAVO_INLINE int32_t word_at(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// Brings the weights that come next nearer while others are multiplied: processors fetch ahead within a page only.
// A tile goes over its outputs' weights in iterations; over all tiles of these outputs, the next ones are fetched once.
struct Ahead {
  const uint8_t* from;
  int64_t step;         // bytes an iteration, a cache line for each of the tile's halves at the most
  template <int HALVES>
  OCTAVO_INLINE void fetch(int64_t iteration) const {
#pragma GCC unroll 8
    for (int line = 0; line < HALVES; ++line) __builtin_prefetch(from + iteration * step + line * 64, 0, 2);
  }
};

// What a tile of HALVES halves of panels reads: its weights from the first panel on, at byte `at` of each input's.
template <int HALVES>
struct PanelPointers {
  const uint8_t* panels[(HALVES + 1) / 2];
  OCTAVO_INLINE PanelPointers(const PackedWeight& weight, int64_t half, int64_t half_bytes) {
#pragma GCC unroll 4
    for (int n = 0; n < (HALVES + 1) / 2; ++n) {
      panels[n] = weight.panel(half / 2 + n) + (HALVES == 1 ? half % 2 * half_bytes : 0);
    }
  }
  // The half's weights of one iteration, of which a panel's are two halves.
  OCTAVO_INLINE const uint8_t* at(int half, int64_t iteration, int64_t half_bytes) const {
    return panels[half / 2] + (iteration * 2 + half % 2) * half_bytes;
  }
};

// A tile is ROWS rows by HALVES halves of panels, sixteen outputs each.

// float32 and float16 weights.
template <class Element>
struct FloatTile {
  static constexpr int64_t INPUTS = 1;  // an iteration

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, Ahead ahead) {
    constexpr int AT_ONCE = HALVES < 2 ? 1 : 2;
    using Stored = typename Element::Stored;
    constexpr int64_t HALF_BYTES = LANES * sizeof(Stored);
    const RowPointers<float> x_rows{p.x, p.x_stride, p.rows};
    const float* x[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) x[r] = x_rows[row + r];
    const PanelPointers<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    F32x16 sums[ROWS][HALVES];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) sums[r][h] = zero();
    const int64_t size = p.weight->num_inputs;
    for (int64_t k = 0; k < size; ++k) {
      ahead.fetch<HALVES>(k);
#pragma GCC unroll 4
      for (int h = 0; h < HALVES; h += AT_ONCE) {
        F32x16 part[AT_ONCE];
#pragma GCC unroll 2
        for (int i = 0; i < AT_ONCE; ++i) {
          part[i] = Element::load16(reinterpret_cast<const Stored*>(weights.at(h + i, k, HALF_BYTES)));
        }
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          const F32x16 value = set1(x[r][k]);
#pragma GCC unroll 2
          for (int i = 0; i < AT_ONCE; ++i) {
            sums[r][h + i] = fma(part[i], value, sums[r][h + i]);
            pin(sums[r][h + i]);
          }
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) store_outputs(p, row + r, first_half + h, sums[r][h]);
  }
};

// bfloat16 weights: two inputs an iteration, widened to float32, or where the processor has it by its dot product.
struct BFloat16Tile {
  static constexpr int64_t INPUTS = 2;
  static constexpr int64_t HALF_BYTES = 64;

#if defined(__AVX512BF16__)

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, Ahead ahead) {
    const RowPointers<uint8_t> x_rows{p.values, p.values_stride, p.rows};
    const uint8_t* x[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) x[r] = x_rows[row + r];
    const PanelPointers<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    F32x16 sums[ROWS][HALVES];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) sums[r][h] = zero();
    const int64_t num_pairs = (p.weight->num_inputs + 1) / 2;
    for (int64_t k = 0; k < num_pairs; ++k) {
      ahead.fetch<HALVES>(k);
#pragma GCC unroll 4
      for (int h = 0; h < HALVES; h += 2) {
        const auto low = (__m512bh)_mm512_loadu_si512(weights.at(h, k, HALF_BYTES));
        const auto high = (__m512bh)_mm512_loadu_si512(weights.at(h + 1, k, HALF_BYTES));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          const auto pair = (__m512bh)_mm512_set1_epi32(word_at(x[r] + k * 4));
          sums[r][h] = {_mm512_dpbf16_ps(sums[r][h].v, low, pair)};
          sums[r][h + 1] = {_mm512_dpbf16_ps(sums[r][h + 1].v, high, pair)};
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) store_outputs(p, row + r, first_half + h, sums[r][h]);
  }

#else

  // Adds to the sums what inputs k and, where there is one, k + 1 give.
  template <bool IS_PAIR, int ROWS, int HALVES>
  static OCTAVO_INLINE void add_pair(const PanelPointers<HALVES>& weights, const float* const* x, int64_t k,
                                     F32x16 (&sums)[ROWS][HALVES]) {
    constexpr int AT_ONCE = HALVES < 2 ? 1 : 2;
#pragma GCC unroll 4
    for (int h = 0; h < HALVES; h += AT_ONCE) {
      F32x16 part[AT_ONCE];
#pragma GCC unroll 2
      for (int i = 0; i < AT_ONCE; ++i) part[i] = load_bf16_evens(weights.at(h + i, k / 2, HALF_BYTES));
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const F32x16 value = set1(x[r][k]);
#pragma GCC unroll 2
        for (int i = 0; i < AT_ONCE; ++i) {
          sums[r][h + i] = fma(part[i], value, sums[r][h + i]);
          pin(sums[r][h + i]);
        }
      }
      if constexpr (!IS_PAIR) continue;
#pragma GCC unroll 2
      for (int i = 0; i < AT_ONCE; ++i) part[i] = load_bf16_odds(weights.at(h + i, k / 2, HALF_BYTES));
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const F32x16 value = set1(x[r][k + 1]);
#pragma GCC unroll 2
        for (int i = 0; i < AT_ONCE; ++i) {
          sums[r][h + i] = fma(part[i], value, sums[r][h + i]);
          pin(sums[r][h + i]);
        }
      }
    }
  }

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, Ahead ahead) {
    const RowPointers<float> x_rows{p.x, p.x_stride, p.rows};
    const float* x[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) x[r] = x_rows[row + r];
    const PanelPointers<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    F32x16 sums[ROWS][HALVES];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) sums[r][h] = zero();
    const int64_t size = p.weight->num_inputs;
    int64_t k = 0;
    for (; k + 1 < size; k += 2) {
      ahead.fetch<HALVES>(k / 2);
      add_pair<true, ROWS, HALVES>(weights, x, k, sums);
    }
    if (k < size) add_pair<false, ROWS, HALVES>(weights, x, k, sums);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) store_outputs(p, row + r, first_half + h, sums[r][h]);
  }

#endif
};

// int8 weights: the integer sums of a group of inputs, scaled by the activations' scale, add up group after group; the
// weights' scales follow at the end.
struct Int8Tile {
  static constexpr int64_t INPUTS = QUAD;
  static constexpr int64_t HALF_BYTES = LANES * QUAD;
  static constexpr int64_t QUADS_A_GROUP = GROUP / QUAD;

  // Adds to `sums` of each row what its quads from `begin` to `end` give.
  template <int ROWS, int HALVES>
  static void add_quads(const PanelPointers<HALVES>& weights, const Quantized* const* x, int64_t begin, int64_t end,
                        Ahead ahead, I32x16 (&sums)[ROWS][HALVES]);

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, Ahead ahead) {
    const RowPointers<uint8_t> x_rows{p.values, p.values_stride, p.rows};
    const int64_t num_quads = (p.weight->num_inputs + QUAD - 1) / QUAD, num_groups = p.weight->num_groups();
    const Quantized* x[ROWS];
    const float* scales[ROWS];
    const int32_t* starts[ROWS];
    // The totals over groups wait in the nearest cache: the registers hold one group's integers.
    alignas(64) float totals[ROWS][HALVES][LANES];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const int64_t source = p.rows ? p.rows[row + r] : row + r;
      x[r] = reinterpret_cast<const Quantized*>(x_rows[row + r]);
      scales[r] = p.scales + source * num_groups;
      starts[r] = p.starts + source * num_groups;
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) store(totals[r][h], zero());
    }
    const PanelPointers<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    for (int64_t group = 0; group < num_groups; ++group) {
      I32x16 sums[ROWS][HALVES];
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int h = 0; h < HALVES; ++h) sums[r][h] = set1_i32(starts[r][group]);
      const int64_t end = (group + 1) * QUADS_A_GROUP < num_quads ? (group + 1) * QUADS_A_GROUP : num_quads;
      add_quads<ROWS, HALVES>(weights, x, group * QUADS_A_GROUP, end, ahead, sums);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const F32x16 scale = set1(scales[r][group]);
#pragma GCC unroll 8
        for (int h = 0; h < HALVES; ++h) store(totals[r][h], fma(to_float(sums[r][h]), scale, load(totals[r][h])));
      }
    }
    const float* weight_scales = p.weight->scales + first_half * LANES;
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
      for (int h = 0; h < HALVES; ++h) {
        store_outputs(p, row + r, first_half + h, load(totals[r][h]) * load(weight_scales + h * LANES));
      }
  }
};

#if defined(__AVX512VNNI__)

template <int ROWS, int HALVES>
OCTAVO_INLINE void Int8Tile::add_quads(const PanelPointers<HALVES>& weights, const Quantized* const* x, int64_t begin,
                                       int64_t end, Ahead ahead, I32x16 (&sums)[ROWS][HALVES]) {
  for (int64_t quad = begin; quad < end; ++quad) {
    ahead.fetch<HALVES>(quad);
#pragma GCC unroll 4
    for (int h = 0; h < HALVES; h += 2) {
      const __m512i low = _mm512_loadu_si512(weights.at(h, quad, HALF_BYTES));
      const __m512i high = _mm512_loadu_si512(weights.at(h + 1, quad, HALF_BYTES));
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const __m512i values = _mm512_set1_epi32(word_at(x[r] + quad * QUAD));
        sums[r][h] = {_mm512_dpbusd_epi32(sums[r][h].v, low, values)};
        sums[r][h + 1] = {_mm512_dpbusd_epi32(sums[r][h + 1].v, high, values)};
      }
    }
  }
}

#elif defined(__AVX2__)

// The multiply-add of bytes takes one side unsigned and its pairs' sums saturate past 16 bits; of magnitudes and weights
// that have the activations' signs (`store_quantized`) they are 2 * 127 * 128 at the most.
template <int ROWS, int HALVES>
OCTAVO_INLINE void Int8Tile::add_quads(const PanelPointers<HALVES>& weights, const Quantized* const* x, int64_t begin,
                                       int64_t end, Ahead ahead, I32x16 (&sums)[ROWS][HALVES]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t quad = begin; quad < end; ++quad) {
    ahead.fetch<HALVES>(quad);
#pragma GCC unroll 8
    for (int h = 0; h < HALVES; ++h) {
      const __m256i low = words_at(weights.at(h, quad, HALF_BYTES)), high = words_at(weights.at(h, quad, HALF_BYTES) + 32);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        const __m256i magnitudes = _mm256_set1_epi32(word_at(x[r] + quad * QUAD));
        const __m256i signs = _mm256_set1_epi32(word_at(x[r] + quad * QUAD + 2));
        const __m256i low_pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(low, signs));
        const __m256i high_pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(high, signs));
        add_to(sums[r][h].lo, _mm256_madd_epi16(low_pairs, ones));
        add_to(sums[r][h].hi, _mm256_madd_epi16(high_pairs, ones));
      }
    }
  }
}

#else

template <int ROWS, int HALVES>
OCTAVO_INLINE void Int8Tile::add_quads(const PanelPointers<HALVES>& weights, const Quantized* const* x, int64_t begin,
                                       int64_t end, Ahead, I32x16 (&sums)[ROWS][HALVES]) {
  for (int64_t quad = begin; quad < end; ++quad)
    for (int h = 0; h < HALVES; ++h) {
      const uint8_t* at = weights.at(h, quad, HALF_BYTES);
      for (int r = 0; r < ROWS; ++r)
        for (int i = 0; i < LANES; ++i)
          for (int64_t j = 0; j < QUAD; ++j) {
            sums[r][h].v[i] += static_cast<int32_t>(at[i * QUAD + j]) * x[r][quad * QUAD + j];
          }
    }
}

#endif

using TileFunction = void (*)(const Product&, int64_t row, int64_t half, Ahead ahead);

// One weight type's tiles, by the number of rows less one.
struct Tiles {
  TileFunction wide[MAX_ROWS];    // of halves_for(rows)
  TileFunction narrow[MAX_ROWS];  // of MIN_HALVES
  int64_t inputs;                 // an iteration
};

template <class Tile, int ROWS = MAX_ROWS>
struct Fill {
  static void in(Tiles& tiles) {
    tiles.wide[ROWS - 1] = Tile::template run<ROWS, halves_for(ROWS)>;
    tiles.narrow[ROWS - 1] = Tile::template run<ROWS, MIN_HALVES>;
    Fill<Tile, ROWS - 1>::in(tiles);
  }
};
template <class Tile>
struct Fill<Tile, 0> {
  static void in(Tiles&) {}
};

template <class Tile>
Tiles all_tiles() {
  Tiles tiles;
  tiles.inputs = Tile::INPUTS;
  Fill<Tile>::in(tiles);
  return tiles;
}

inline const Tiles& tiles_for(DataType type) {
  static const Tiles tiles[] = {all_tiles<FloatTile<Float32>>(), all_tiles<BFloat16Tile>(),
                                all_tiles<FloatTile<Float16>>(), all_tiles<Int8Tile>()};
  return tiles[static_cast<int>(type)];
}

// Outputs outside, rows inside: the weights of some outputs stay in the nearest cache while the rows go by.
inline void product(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                    int64_t panel_next) {
  const PackedWeight& weight = *p.weight;
  const Tiles& tiles = tiles_for(weight.type);
  const int64_t num_rows = row_end - row_begin, num_tiles = (num_rows + MAX_ROWS - 1) / MAX_ROWS;
  const int64_t num_iterations = (weight.num_inputs + tiles.inputs - 1) / tiles.inputs;
  const int64_t wide = num_tiles == 1 ? halves_for(num_rows) : MIN_HALVES, end = 2 * panel_end;
  for (int64_t half = 2 * panel_begin; half < end;) {
    const int64_t num_halves = half + wide <= end ? wide : MIN_HALVES;
    // The tiles that go over these panels fetch as many that come next, each its share.
    const int64_t num_panels = (num_halves + 1) / 2, following = half / 2 + num_panels;
    const int64_t next = following < panel_end ? following : panel_next;
    const int64_t num_sweeps = num_tiles * (num_halves < 2 ? 2 : 1);
    const int64_t share = weight.panel_bytes * num_panels / num_sweeps;
    int64_t row = row_begin;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      // Rows are shared out evenly, as a tile of few rows costs nearly what a full one does.
      const int64_t rows = (row_end - row + num_tiles - tile - 1) / (num_tiles - tile);
      const int64_t sweep = tile + half % 2 * num_tiles;
      const Ahead ahead{weight.panel(next) + sweep * share, share / num_iterations};
      (num_halves > MIN_HALVES ? tiles.wide : tiles.narrow)[rows - 1](p, row, half, ahead);
      row += rows;
    }
    half += num_halves;
  }
}

inline void to_bfloat16(const float* x, int64_t size, uint16_t* values, int64_t padded_size) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) store_bf16(values + i, load(x + i));
  for (; i < padded_size; i += LANES) {
    uint16_t last[LANES];
    const int left = static_cast<int>(size - i > 0 ? size - i : 0);
    store_bf16(last, load_first(x + i, left));
    for (int64_t j = i; j < padded_size && j < i + LANES; ++j) values[j] = last[j - i];
  }
}

// One group of up to GROUP numbers, padded to GROUP with zeros.
OCTAVO_INLINE void quantize_group(const float* x, int64_t size, Quantized* values, float* scale, int32_t* start) {
  F32x16 parts[GROUP / LANES];
  F32x16 largest = zero();
#pragma GCC unroll 4
  for (int64_t i = 0; i < GROUP / LANES; ++i) {
    const int64_t left = size - i * LANES;
    parts[i] = left >= LANES ? load(x + i * LANES) : load_first(x + i * LANES, left > 0 ? static_cast<int>(left) : 0);
    largest = max(largest, abs(parts[i]));
  }
  const float range = max_lane(largest);
  const F32x16 inverse = set1(range > 0 ? 127.0f / range : 0.0f), low = set1(-127.0f), high = set1(127.0f);
  F32x16 sum = zero();  // of whole numbers below 2^24: exact
#pragma GCC unroll 4
  for (int64_t i = 0; i < GROUP / LANES; ++i) {
    const F32x16 rounded = min(max(round(parts[i] * inverse), low), high);
    store_quantized(values + i * LANES, rounded);
    sum = sum + start_from(rounded);
  }
  *start = static_cast<int32_t>(sum_lanes(sum));
  *scale = range / 127.0f;
}

inline void quantize(const float* x, int64_t size, uint8_t* values, float* scales, int32_t* starts) {
  for (int64_t i = 0; i < size; i += GROUP) {
    quantize_group(x + i, size - i < GROUP ? size - i : GROUP, reinterpret_cast<Quantized*>(values) + i,
                   scales + i / GROUP, starts + i / GROUP);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
