// Products with int8 weights: a quad of inputs an iteration. The integer sums of a group of inputs, which are exact, are
// scaled by the activations' scale and added up group after group; the weights' scales follow at the end.
//
//   x        [ROWS][num_quads][QUAD] Quantized (product_input.h), whole groups
//   scales   [ROWS][num_groups] float32, of the activations
//   starts   [ROWS][num_groups] int32, what a group's integer sums start at
//   weights  [HALVES][num_quads][LANES][QUAD] uint8, the true ones plus INT8_OFFSET
//   totals   [ROWS][HALVES] vectors of sixteen outputs
//
// An instruction set has its own `add_quads`, below.
#pragma once

#include "product_input.h"
#include "product_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

struct Int8Tile {
  static constexpr int64_t INPUTS = QUAD;
  static constexpr int64_t HALF_BYTES = LANES * QUAD;
  static constexpr int64_t QUADS_A_GROUP = GROUP / QUAD;

  template <int ROWS, int HALVES>
  static void run(const Product& p, int64_t row, int64_t first_half, NextWeights next) {
    const int64_t num_quads = (p.weight->num_inputs + QUAD - 1) / QUAD, num_groups = p.weight->num_groups();
    const TileRows<Quantized, ROWS> x(p, row, reinterpret_cast<const Quantized*>(p.values),
                                      p.values_stride / static_cast<int64_t>(sizeof(Quantized)));
    const TileRows<float, ROWS> scales(p, row, p.scales, num_groups);
    const TileRows<int32_t, ROWS> starts(p, row, p.starts, num_groups);
    // The totals over groups wait in the nearest cache: the registers hold one group's integers.
    alignas(CACHE_LINE) float totals[ROWS][HALVES][LANES];
    OCTAVO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; ++h) store(totals[r][h], zero());
    }
    const TileWeights<HALVES> weights(*p.weight, first_half, HALF_BYTES);
    for (int64_t group = 0; group < num_groups; ++group) {
      I32x16 sums[ROWS][HALVES];
      OCTAVO_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        OCTAVO_UNROLL
        for (int h = 0; h < HALVES; ++h) sums[r][h] = set1_i32(starts[r][group]);
      }
      const int64_t end = (group + 1) * QUADS_A_GROUP < num_quads ? (group + 1) * QUADS_A_GROUP : num_quads;
      add_quads<ROWS, HALVES>(weights, x, group * QUADS_A_GROUP, end, next, sums);
      OCTAVO_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const F32x16 scale = set1(scales[r][group]);
        OCTAVO_UNROLL
        for (int h = 0; h < HALVES; ++h) store(totals[r][h], fma(to_float(sums[r][h]), scale, load(totals[r][h])));
      }
    }
    const float* weight_scales = p.weight->scales + first_half * LANES;
    OCTAVO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; ++h) {
        store_half(p, row + r, first_half + h, load(totals[r][h]) * load(weight_scales + h * LANES));
      }
    }
  }

 private:
  // Adds to the sums of each row and output what the quads [begin, end) give.
  template <int ROWS, int HALVES>
  static void add_quads(const TileWeights<HALVES>& weights, const TileRows<Quantized, ROWS>& x, int64_t begin, int64_t end,
                        NextWeights next, I32x16 (&sums)[ROWS][HALVES]);
};

#if defined(__AVX512VNNI__)

template <int ROWS, int HALVES>
OCTAVO_INLINE void Int8Tile::add_quads(const TileWeights<HALVES>& weights, const TileRows<Quantized, ROWS>& x, int64_t begin,
                                       int64_t end, NextWeights next, I32x16 (&sums)[ROWS][HALVES]) {
  for (int64_t quad = begin; quad < end; ++quad) {
    next.fetch<HALVES>(quad);
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES; h += 2) {
      const __m512i low = _mm512_loadu_si512(weights.at(h, quad, HALF_BYTES));
      const __m512i high = _mm512_loadu_si512(weights.at(h + 1, quad, HALF_BYTES));
      OCTAVO_UNROLL
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
OCTAVO_INLINE void Int8Tile::add_quads(const TileWeights<HALVES>& weights, const TileRows<Quantized, ROWS>& x, int64_t begin,
                                       int64_t end, NextWeights next, I32x16 (&sums)[ROWS][HALVES]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t quad = begin; quad < end; ++quad) {
    next.fetch<HALVES>(quad);
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES; ++h) {
      const uint8_t* at = weights.at(h, quad, HALF_BYTES);
      const __m256i low = words_at(at), high = words_at(at + HALF_BYTES / 2);
      OCTAVO_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const Quantized* activations = x[r] + quad * QUAD;
        const __m256i magnitudes = _mm256_set1_epi32(word_at(activations));
        const __m256i signs = _mm256_set1_epi32(word_at(activations + QUAD / 2));
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
OCTAVO_INLINE void Int8Tile::add_quads(const TileWeights<HALVES>& weights, const TileRows<Quantized, ROWS>& x, int64_t begin,
                                       int64_t end, NextWeights, I32x16 (&sums)[ROWS][HALVES]) {
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

}  // namespace OCTAVO_ISA
}  // namespace octavo
