// Products with grouped weights: a step of inputs at a time, whose integer sums, which are exact, are scaled by the
// activations' scale and then by the weights', and added up step after step. Minimums take off what they give times the sum of
// the activations. The rows' scales follow at the end.
//
//   x        [ROWS][num_steps] StepActivations (product_input.h)
//   weights  a panel's stream of blocks (PackedWeight)
//   sums     [ROWS][HALVES] vectors of sixteen outputs
//
// Weights of 4 bits are unpacked by each tile of rows anew: the arithmetic units do so while others wait for their operands,
// and unpacking to memory for all tiles gains nothing below some thirty rows.
#pragma once

#include "quads.h"

namespace octavo {
namespace OCTAVO_ISA {

// Rows of a tile, at the most: the registers hold a step's integer sums and the sums of all steps.
#if defined(__AVX512F__)
constexpr int GROUPED_ROWS = 7;
#else
constexpr int GROUPED_ROWS = MAX_ROWS;
#endif
// Halves of a panel in a tile, of one panel at the most. Both share the activations, and a panel's bytes are read one after
// another.
constexpr int grouped_halves(int64_t rows) { return halves_for(rows) < HALVES_A_PANEL ? halves_for(rows) : HALVES_A_PANEL; }

// The integer sums of a step, or of a part of it: 32 bits, which begin where the step says.
struct WordSums {
  using Sums = I32x16;
  struct StepQuad : Activations {
    OCTAVO_INLINE StepQuad(const StepActivations& x, int quad) : Activations(x.values + quad * QUAD) {}
  };
  template <int PARTS>
  static OCTAVO_INLINE Sums start(const StepActivations& x, int part) {
    return set1_i32(PARTS == 1 ? x.scales.start : x.scales.half_starts[part]);
  }
  template <int PARTS>
  OCTAVO_INLINE I32x16 total(const Sums& sums, const StepActivations&, int) const {
    return sums;
  }
};

// A quad of a step's weights, of a half of the panel.
struct EightBits : WordSums {
  static constexpr int64_t STEP_BYTES = STEP * PANEL;
  explicit OCTAVO_INLINE EightBits(const uint8_t*) {}
  OCTAVO_INLINE Quads quad(const uint8_t* step, int quad, int half) const {
    return load_quads(step + (quad * HALVES_A_PANEL + half) * QUADS_BYTES);
  }
};
// Two quads' codes.
OCTAVO_INLINE Quads load_codes(const uint8_t* step, int quad, int half) {
  return load_quads(step + (quad / 2 * HALVES_A_PANEL + half) * QUADS_BYTES);
}
struct FourBits : WordSums {
  static constexpr int64_t STEP_BYTES = STEP * PANEL / 2;
  CodeTable table;
  explicit OCTAVO_INLINE FourBits(const uint8_t* numbers) : table(numbers) {}
  OCTAVO_INLINE Quads quad(const uint8_t* step, int quad, int half) const {
    const Quads codes = load_codes(step, quad, half);
    return quad % 2 == 0 ? table.low(codes) : table.high(codes);
  }
};
#if defined(OCTAVO_HAS_CODE_PRODUCTS)
// Of a weight that has_plain_codes: what the number of code 0 gives is added to the sums of codes.
struct PlainCodes {
  static constexpr int64_t STEP_BYTES = FourBits::STEP_BYTES;
  using Sums = PairSums;
  struct StepQuad : PlainActivations {
    OCTAVO_INLINE StepQuad(const StepActivations& x, int quad) : PlainActivations(x.plain.values + quad * QUAD) {}
  };
  int32_t first;
  explicit OCTAVO_INLINE PlainCodes(const uint8_t* numbers) : first(numbers[0] - INT8_OFFSET) {}
  OCTAVO_INLINE Quads quad(const uint8_t* step, int quad, int half) const {
    const Quads codes = load_codes(step, quad, half);
    return quad % 2 == 0 ? low_codes(codes) : high_codes(codes);
  }
  template <int PARTS>
  static OCTAVO_INLINE Sums start(const StepActivations&, int) {
    return {_mm256_setzero_si256(), _mm256_setzero_si256()};
  }
  template <int PARTS>
  OCTAVO_INLINE I32x16 total(const Sums& sums, const StepActivations& x, int part) const {
    const int32_t sum = PARTS == 1 ? x.plain.half_sums[0] + x.plain.half_sums[1] : x.plain.half_sums[part];
    return quad_sums(sums, SUM_OFFSET_BITS + first * sum);
  }
};
#endif

// The scales or minimums of a group, of a half of the panel.
OCTAVO_INLINE F32x16 of_half(const uint8_t* groups, int group, int half) {
  return load_f16(reinterpret_cast<const uint16_t*>(groups) + (group * HALVES_A_PANEL + half) * LANES);
}

// The weights that come next, a few lines a step: `NextWeights` for tiles whose steps have many.
struct NextLines {
  const uint8_t* from;
  int64_t lines_a_step;
  OCTAVO_INLINE void fetch(int64_t step) const {
    const uint8_t* line = from + step * lines_a_step * CACHE_LINE;
    for (int64_t i = 0; i < lines_a_step; ++i) prefetch(line + i * CACHE_LINE);
  }
};

// PARTS: groups that a step is of, 2 where they are of half steps.
template <int ROWS, class Numbers, int PARTS>
struct GroupedTile {
  static constexpr int HALVES = grouped_halves(ROWS);
  static constexpr int QUADS_A_PART = QUADS_A_STEP / PARTS;
  using Sums = typename Numbers::Sums;

  static void run(const Product& p, int64_t row, int64_t first_half, NextLines next) {
    const PackedWeight& weight = *p.weight;
    const int64_t num_steps = weight.num_steps(), steps_a_block = weight.block_inputs() / STEP;
    const int64_t numbers_bytes = steps_a_block * Numbers::STEP_BYTES, scales_bytes = weight.block_bytes() - numbers_bytes;
    const Numbers numbers(weight.table);
    const Rows rows(p, row);
    const int half = static_cast<int>(HALVES == HALVES_A_PANEL ? 0 : first_half % HALVES_A_PANEL);
    F32x16 sums[ROWS][HALVES];
    clear(sums);
    const uint8_t* weights = weight.panel(first_half / HALVES_A_PANEL);
    const uint8_t* scales = weights + numbers_bytes;
    int64_t left = steps_a_block;
    for (int64_t step = 0; step < num_steps; ++step) {
      next.fetch(step);
      OCTAVO_UNROLL
      for (int part = 0; part < PARTS; ++part) {
        // First, while the registers have no integer sums.
        if (weight.has_minimums) add_minimums(scales, half, rows, step, part, sums);
        Sums integers[ROWS][HALVES];
        start(rows, step, part, integers);
        add_quads(numbers, weights, half, rows, step, part, integers);
        add_scaled(numbers, integers, scales, half, rows, step, part, sums);
      }
      weights += Numbers::STEP_BYTES;
      if (--left == 0) {
        left = steps_a_block;
        weights += scales_bytes;
        scales = weights + numbers_bytes;
      }
    }
    const float* row_scales = weight.scales + first_half * LANES;
    OCTAVO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; ++h) store_half(p, row + r, first_half + h, sums[r][h] * load(row_scales + h * LANES));
    }
  }

 private:
  struct Rows {
    TileRows<uint8_t, ROWS> steps;
    OCTAVO_INLINE Rows(const Product& p, int64_t row) : steps(p, row, p.values, p.values_stride) {}
    OCTAVO_INLINE const StepActivations& at(int r, int64_t step) const {
      return reinterpret_cast<const StepActivations*>(steps[r])[step];
    }
  };

  static OCTAVO_INLINE void start(const Rows& rows, int64_t step, int part, Sums (&integers)[ROWS][HALVES]) {
    OCTAVO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; ++h) integers[r][h] = Numbers::template start<PARTS>(rows.at(r, step), part);
    }
  }

  static OCTAVO_INLINE void add_quads(const Numbers& numbers, const uint8_t* weights, int half, const Rows& rows,
                                      int64_t step, int part, Sums (&integers)[ROWS][HALVES]) {
    OCTAVO_UNROLL
    for (int i = 0; i < QUADS_A_PART; ++i) {
      const int quad = part * QUADS_A_PART + i;
      Quads own[HALVES];
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; ++h) own[h] = numbers.quad(weights, quad, half + h);
      OCTAVO_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const typename Numbers::StepQuad activations(rows.at(r, step), quad);
        OCTAVO_UNROLL
        for (int h = 0; h < HALVES; ++h) add_products(integers[r][h], own[h], activations);
      }
    }
  }

  static OCTAVO_INLINE void add_scaled(const Numbers& numbers, const Sums (&integers)[ROWS][HALVES], const uint8_t* scales,
                                       int half, const Rows& rows, int64_t step, int part,
                                       F32x16 (&sums)[ROWS][HALVES]) {
    F32x16 scale[HALVES];
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES; ++h) scale[h] = of_half(scales, part, half + h);
    OCTAVO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES; ++h) {
        const StepActivations& own = rows.at(r, step);
        const I32x16 total = numbers.template total<PARTS>(integers[r][h], own, part);
        sums[r][h] = fma(scaled(total, own.scales), scale[h], sums[r][h]);
      }
    }
  }

  static OCTAVO_INLINE void add_minimums(const uint8_t* scales, int half, const Rows& rows, int64_t step, int part,
                                         F32x16 (&sums)[ROWS][HALVES]) {
    F32x16 minimum[HALVES];
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES; ++h) minimum[h] = of_half(scales, PARTS + part, half + h);
    multiply_add(sums, 0, minimum, [&](int r) {
      const StepScales& own = rows.at(r, step).scales;
      return PARTS == 1 ? own.minus_sum : own.minus_half_sums[part];
    });
  }
};

using GroupedFunction = void (*)(const Product&, int64_t row, int64_t half, NextLines next);

// One form's tiles, by the number of rows less one.
struct GroupedTiles {
  GroupedFunction by_rows[GROUPED_ROWS];
};

template <class Numbers, int PARTS, int ROWS = GROUPED_ROWS>
void fill(GroupedTiles& tiles) {
  tiles.by_rows[ROWS - 1] = GroupedTile<ROWS, Numbers, PARTS>::run;
  if constexpr (ROWS > 1) fill<Numbers, PARTS, ROWS - 1>(tiles);
}

template <class Numbers, int PARTS>
GroupedTiles all_grouped_tiles() {
  GroupedTiles tiles;
  fill<Numbers, PARTS>(tiles);
  return tiles;
}

// By the groups of a step, less one.
inline const GroupedTiles& grouped_tiles(const PackedWeight& weight) {
  static const GroupedTiles four_bits[] = {all_grouped_tiles<FourBits, 1>(), all_grouped_tiles<FourBits, 2>()};
#if defined(OCTAVO_HAS_CODE_PRODUCTS)
  static const GroupedTiles plain_codes[] = {all_grouped_tiles<PlainCodes, 1>(), all_grouped_tiles<PlainCodes, 2>()};
  if (weight.has_plain_codes()) return plain_codes[weight.groups_a_block() - 1];
#endif
  static const GroupedTiles eight_bits[] = {all_grouped_tiles<EightBits, 1>(), all_grouped_tiles<EightBits, 2>()};
  return (weight.bits == 4 ? four_bits : eight_bits)[weight.groups_a_block() - 1];
}

// As `product`.
inline void grouped_product(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                            int64_t panel_next) {
  const PackedWeight& weight = *p.weight;
  const GroupedTiles& tiles = grouped_tiles(weight);
  const int64_t num_rows = row_end - row_begin, num_tiles = (num_rows + GROUPED_ROWS - 1) / GROUPED_ROWS;
  // The sweeps over a panel, a tile each, fetch the next one, each its share.
  const int64_t num_sweeps = num_tiles * HALVES_A_PANEL / grouped_halves(num_rows / num_tiles);
  const int64_t num_fetches = num_sweeps * weight.num_steps() * CACHE_LINE;
  const int64_t lines_a_step = (weight.panel_bytes + num_fetches - 1) / num_fetches;
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    NextLines next{weight.panel(panel + 1 < panel_end ? panel + 1 : panel_next), lines_a_step};
    int64_t row = row_begin;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      // Rows are shared out evenly, as a tile of few rows costs nearly what a full one does.
      const int64_t rows = (row_end - row + num_tiles - tile - 1) / (num_tiles - tile);
      for (int half = 0; half < HALVES_A_PANEL; half += grouped_halves(rows)) {
        tiles.by_rows[rows - 1](p, row, panel * HALVES_A_PANEL + half, next);
        next.from += weight.num_steps() * lines_a_step * CACHE_LINE;
      }
      row += rows;
    }
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
