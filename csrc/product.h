// Products of activations with a packed weight, and what prepares activations for the int8 one.
//
// A micro kernel holds the sums of ROWS rows by PANELS panels in registers while it goes over all inputs once; so a weight
// is read from memory once for up to MAX_ROWS rows, and each output is one chain of multiply-adds over its inputs in
// order, whatever the batch.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace octavo {
namespace OCTAVO_ISA {

// Rows of an activation matrix, taken in order or by a list.
template <class T>
struct RowPointers {
  const T* x;
  int64_t stride;
  const int64_t* rows;
  OCTAVO_INLINE const T* operator[](int64_t row) const { return x + (rows ? rows[row] : row) * stride; }
};

OCTAVO_INLINE void store_outputs(const Product& p, int64_t row, int64_t panel, F32x16 low, F32x16 high) {
  const int64_t output = panel * PANEL, left = p.weight->num_outputs - output;
  float* out = p.out + row * p.out_stride + output;
  if (left >= PANEL) {
    if (p.bias) {
      low = low + load(p.bias + output);
      high = high + load(p.bias + output + LANES);
    }
    store(out, low);
    store(out + LANES, high);
    return;
  }
  const int first = static_cast<int>(left < LANES ? left : LANES), second = static_cast<int>(left - first);
  if (p.bias) {
    low = low + load_first(p.bias + output, first);
    if (second) high = high + load_first(p.bias + output + LANES, second);
  }
  store_first(out, low, first);
  if (second) store_first(out + LANES, high, second);
}

OCTAVO_INLINE int32_t word_at(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// Brings the weights that come next nearer while others are multiplied: processors fetch ahead within a page only.
// A tile goes over a panel in iterations; over all tiles of the panel, the next one is fetched once.
struct Ahead {
  const uint8_t* from;
  int64_t step;         // bytes an iteration
  OCTAVO_INLINE void fetch(int64_t iteration) const {
    __builtin_prefetch(from + iteration * step, 0, 2);
    __builtin_prefetch(from + iteration * step + 64, 0, 2);
  }
};

// float32 and float16 weights.
template <class Element>
struct FloatTile {
  static constexpr int64_t INPUTS = 1;  // an iteration

  template <int ROWS, int PANELS>
  static void run(const Product& p, int64_t row, int64_t panel, Ahead ahead) {
    using Stored = typename Element::Stored;
    const RowPointers<float> x_rows{p.x, p.x_stride, p.rows};
    const float* x[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) x[r] = x_rows[row + r];
    const Stored* weights[PANELS];
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n) weights[n] = reinterpret_cast<const Stored*>(p.weight->panel(panel + n));
    F32x16 sums[ROWS][PANELS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) sums[r][n][0] = sums[r][n][1] = zero();
    const int64_t size = p.weight->num_inputs;
    for (int64_t k = 0; k < size; ++k) {
      ahead.fetch(k);
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) {
        const F32x16 low = Element::load16(weights[n] + k * PANEL);
        const F32x16 high = Element::load16(weights[n] + k * PANEL + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          const F32x16 value = set1(x[r][k]);
          sums[r][n][0] = fma(low, value, sums[r][n][0]);
          sums[r][n][1] = fma(high, value, sums[r][n][1]);
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) store_outputs(p, row + r, panel + n, sums[r][n][0], sums[r][n][1]);
  }
};

// bfloat16 weights: two inputs an iteration, widened to float32, or where the processor has it by its dot product.
struct BFloat16Tile {
  static constexpr int64_t INPUTS = 2;

#if defined(__AVX512BF16__)

  template <int ROWS, int PANELS>
  static void run(const Product& p, int64_t row, int64_t panel, Ahead ahead) {
    const RowPointers<uint8_t> x_rows{p.values, p.values_stride, p.rows};
    const uint8_t* x[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) x[r] = x_rows[row + r];
    const uint8_t* weights[PANELS];
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n) weights[n] = p.weight->panel(panel + n);
    F32x16 sums[ROWS][PANELS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) sums[r][n][0] = sums[r][n][1] = zero();
    const int64_t num_pairs = (p.weight->num_inputs + 1) / 2;
    for (int64_t k = 0; k < num_pairs; ++k) {
      ahead.fetch(k);
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) {
        const auto low = (__m512bh)_mm512_loadu_si512(weights[n] + k * 128);
        const auto high = (__m512bh)_mm512_loadu_si512(weights[n] + k * 128 + 64);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          const auto pair = (__m512bh)_mm512_set1_epi32(word_at(x[r] + k * 4));
          sums[r][n][0] = {_mm512_dpbf16_ps(sums[r][n][0].v, low, pair)};
          sums[r][n][1] = {_mm512_dpbf16_ps(sums[r][n][1].v, high, pair)};
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) store_outputs(p, row + r, panel + n, sums[r][n][0], sums[r][n][1]);
  }

#else

  template <int ROWS, int PANELS>
  static void run(const Product& p, int64_t row, int64_t panel, Ahead ahead) {
    const RowPointers<float> x_rows{p.x, p.x_stride, p.rows};
    const float* x[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) x[r] = x_rows[row + r];
    const uint16_t* weights[PANELS];
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n) weights[n] = reinterpret_cast<const uint16_t*>(p.weight->panel(panel + n));
    F32x16 sums[ROWS][PANELS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) sums[r][n][0] = sums[r][n][1] = zero();
    const int64_t size = p.weight->num_inputs;
    for (int64_t k = 0; k < size; k += 2) {
      ahead.fetch(k / 2);
      const bool is_pair = k + 1 < size;
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) {
        F32x16 low, next_low, high, next_high;
        load_bf16_pairs(weights[n] + k * PANEL, low, next_low);
        load_bf16_pairs(weights[n] + k * PANEL + 2 * LANES, high, next_high);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          const F32x16 value = set1(x[r][k]), next = set1(is_pair ? x[r][k + 1] : 0.0f);
          sums[r][n][0] = fma(next_low, next, fma(low, value, sums[r][n][0]));
          sums[r][n][1] = fma(next_high, next, fma(high, value, sums[r][n][1]));
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) store_outputs(p, row + r, panel + n, sums[r][n][0], sums[r][n][1]);
  }

#endif
};

struct Int8Tile {
  static constexpr int64_t INPUTS = QUAD;

  template <int ROWS, int PANELS>
  static void run(const Product& p, int64_t row, int64_t panel, Ahead ahead);
};

// An unsigned weight is the true one plus 128, so an integer sum starts at minus 128 times the values' own.
OCTAVO_INLINE int32_t start_of(const int32_t* sums, int64_t group) { return -128 * sums[group]; }

// Integer sums of a group, scaled by the activations' scale and added to what the groups before gave; after the last one
// the weights' scales follow.
OCTAVO_INLINE void store_scaled(const Product& p, int64_t row, int64_t panel, F32x16 low, F32x16 high) {
  const float* scales = p.weight->scales + panel * PANEL;
  store_outputs(p, row, panel, low * load(scales), high * load(scales + LANES));
}

OCTAVO_INLINE void add_group(const int32_t* sums, float scale, float* totals) {
  for (int64_t i = 0; i < PANEL; i += LANES) {
    float exact[LANES];
    for (int64_t j = 0; j < LANES; ++j) exact[j] = static_cast<float>(sums[i + j]);
    store(totals + i, fma(load(exact), set1(scale), load(totals + i)));
  }
}

#if defined(__AVX512VNNI__)

template <int ROWS, int PANELS>
void Int8Tile::run(const Product& p, int64_t row, int64_t panel, Ahead ahead) {
  const RowPointers<int8_t> x_rows{reinterpret_cast<const int8_t*>(p.values), p.values_stride, p.rows};
  const int64_t num_quads = (p.weight->num_inputs + QUAD - 1) / QUAD, num_groups = p.weight->num_groups();
  constexpr int64_t QUADS = GROUP / QUAD;
  const int8_t* x[ROWS];
  const float* scales[ROWS];
  const int32_t* own_sums[ROWS];
  // The totals over groups wait in the nearest cache: the registers hold one group's integers.
  alignas(64) float totals[ROWS][PANELS][2][LANES];
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) {
    const int64_t source = p.rows ? p.rows[row + r] : row + r;
    x[r] = x_rows[row + r];
    scales[r] = p.scales + source * num_groups;
    own_sums[r] = p.sums + source * num_groups;
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n) {
      store(totals[r][n][0], zero());
      store(totals[r][n][1], zero());
    }
  }
  const uint8_t* weights[PANELS];
#pragma GCC unroll 4
  for (int n = 0; n < PANELS; ++n) weights[n] = p.weight->panel(panel + n);
  for (int64_t group = 0; group < num_groups; ++group) {
    I32x16 sums[ROWS][PANELS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const __m512i start = _mm512_set1_epi32(start_of(own_sums[r], group));
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) sums[r][n][0] = sums[r][n][1] = {start};
    }
    const int64_t end = (group + 1) * QUADS < num_quads ? (group + 1) * QUADS : num_quads;
    for (int64_t quad = group * QUADS; quad < end; ++quad) {
      ahead.fetch(quad);
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n) {
        const uint8_t* at = weights[n] + quad * (PANEL * QUAD);
        const __m512i low = _mm512_loadu_si512(at), high = _mm512_loadu_si512(at + 64);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
          const __m512i values = _mm512_set1_epi32(word_at(x[r] + quad * QUAD));
          sums[r][n][0] = {_mm512_dpbusd_epi32(sums[r][n][0].v, low, values)};
          sums[r][n][1] = {_mm512_dpbusd_epi32(sums[r][n][1].v, high, values)};
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const F32x16 scale = set1(scales[r][group]);
#pragma GCC unroll 4
      for (int n = 0; n < PANELS; ++n)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const F32x16 exact = {_mm512_cvtepi32_ps(sums[r][n][half].v)};
          store(totals[r][n][half], fma(exact, scale, load(totals[r][n][half])));
        }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < PANELS; ++n) {
      store_scaled(p, row + r, panel + n, load(totals[r][n][0]), load(totals[r][n][1]));
    }
}

#elif defined(__AVX2__)

// Values and weights are widened to 16 bits, whose products add up in pairs without overflow.
OCTAVO_INLINE void add_quads(const uint8_t* weights, const int8_t* x, int64_t begin, int64_t end, int32_t* sums) {
  __m256i pairs[8];  // for outputs 4i to 4i + 3, the sums of inputs 0 and 1, then of 2 and 3, of each quad
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) pairs[i] = _mm256_setzero_si256();
  for (int64_t quad = begin; quad < end; ++quad) {
    const __m256i values = _mm256_cvtepi8_epi16(_mm_set1_epi32(word_at(x + quad * QUAD)));
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const auto* bytes = reinterpret_cast<const __m128i*>(weights + quad * (PANEL * QUAD) + 16 * i);
      const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes));
      pairs[i] = _mm256_add_epi32(pairs[i], _mm256_madd_epi16(wide, values));
    }
  }
  for (int i = 0; i < 8; ++i) {
    int32_t halves[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves), pairs[i]);
    for (int j = 0; j < 4; ++j) sums[4 * i + j] += halves[2 * j] + halves[2 * j + 1];
  }
}

#else

OCTAVO_INLINE void add_quads(const uint8_t* weights, const int8_t* x, int64_t begin, int64_t end, int32_t* sums) {
  for (int64_t quad = begin; quad < end; ++quad) {
    const uint8_t* at = weights + quad * (PANEL * QUAD);
    for (int64_t i = 0; i < PANEL; ++i)
      for (int64_t j = 0; j < QUAD; ++j) sums[i] += static_cast<int32_t>(at[i * QUAD + j]) * x[quad * QUAD + j];
  }
}

#endif

#if !defined(__AVX512VNNI__)

template <int ROWS, int PANELS>
void Int8Tile::run(const Product& p, int64_t first_row, int64_t first_panel, Ahead) {
  const RowPointers<int8_t> x_rows{reinterpret_cast<const int8_t*>(p.values), p.values_stride, p.rows};
  const int64_t num_quads = (p.weight->num_inputs + QUAD - 1) / QUAD, num_groups = p.weight->num_groups();
  constexpr int64_t QUADS = GROUP / QUAD;
  for (int64_t panel = first_panel; panel < first_panel + PANELS; ++panel) {
    for (int64_t row = first_row; row < first_row + ROWS; ++row) {
      const int64_t source = p.rows ? p.rows[row] : row;
      float totals[PANEL] = {};
      for (int64_t group = 0; group < num_groups; ++group) {
        int32_t sums[PANEL];
        for (int32_t& sum : sums) sum = start_of(p.sums + source * num_groups, group);
        const int64_t end = (group + 1) * QUADS < num_quads ? (group + 1) * QUADS : num_quads;
        add_quads(p.weight->panel(panel), x_rows[row], group * QUADS, end, sums);
        add_group(sums, p.scales[source * num_groups + group], totals);
      }
      store_scaled(p, row, panel, load(totals), load(totals + LANES));
    }
  }
}

#endif

using TileFunction = void (*)(const Product&, int64_t row, int64_t panel, Ahead ahead);

// One weight type's tiles, by the number of rows less one.
struct Tiles {
  TileFunction several[MAX_ROWS];  // of panels_for(rows) panels
  TileFunction single[MAX_ROWS];   // of one panel
  int64_t inputs;                  // an iteration
};

// Few rows leave registers for several panels, whose independent chains hide the latency of a multiply-add.
constexpr int panels_for(int64_t rows) { return MAX_ROWS < 12 || rows > 4 ? 1 : rows == 1 ? 4 : 2; }

template <class Tile, int ROWS = MAX_ROWS>
struct Fill {
  static void in(Tiles& tiles) {
    tiles.several[ROWS - 1] = Tile::template run<ROWS, panels_for(ROWS)>;
    tiles.single[ROWS - 1] = Tile::template run<ROWS, 1>;
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

// Panels outside, rows inside: a panel stays in the nearest cache while the rows go by.
inline void product(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end) {
  const PackedWeight& weight = *p.weight;
  const Tiles& tiles = tiles_for(weight.type);
  const int64_t num_rows = row_end - row_begin, num_tiles = (num_rows + MAX_ROWS - 1) / MAX_ROWS;
  const int64_t num_iterations = (weight.num_inputs + tiles.inputs - 1) / tiles.inputs;
  for (int64_t panel = panel_begin; panel < panel_end;) {
    // Rows are shared out evenly, as a tile of few rows costs nearly what a full one does.
    int64_t num_panels = num_tiles == 1 ? panels_for(num_rows) : 1;
    if (panel + num_panels > panel_end) num_panels = 1;
    const bool is_last = panel + num_panels >= panel_end;
    const int64_t share = weight.panel_bytes * num_panels / num_tiles;
    int64_t row = row_begin;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int64_t rows = (row_end - row + num_tiles - tile - 1) / (num_tiles - tile);
      Ahead ahead{weight.panel(panel), 0};
      if (!is_last) ahead = {weight.panel(panel + num_panels) + tile * share, share / num_iterations};
      (num_panels > 1 ? tiles.several : tiles.single)[rows - 1](p, row, panel, ahead);
      row += rows;
    }
    panel += num_panels;
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
OCTAVO_INLINE void quantize_group(const float* x, int64_t size, int8_t* values, float* scale, int32_t* sum) {
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
  F32x16 total = zero();  // of whole numbers far below 2^24: exact
#pragma GCC unroll 4
  for (int64_t i = 0; i < GROUP / LANES; ++i) {
    const F32x16 rounded = min(max(round(parts[i] * inverse), low), high);
    store_i8(values + i * LANES, rounded);
    total = total + rounded;
  }
  *sum = static_cast<int32_t>(sum_lanes(total));
  *scale = range / 127.0f;
}

inline void quantize(const float* x, int64_t size, int8_t* values, float* scales, int32_t* sums) {
  for (int64_t i = 0; i < size; i += GROUP) {
    quantize_group(x + i, size - i < GROUP ? size - i : GROUP, values + i, scales + i / GROUP, sums + i / GROUP);
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
