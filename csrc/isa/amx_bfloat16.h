// Products with bfloat16 weights by AMX, of any number of rows: a tile adds up pairs of inputs in an order of its own, so all
// rows go through tiles, and a row's bits are the same whatever is beside it.
//
//   x        [rows][num_pairs][PAIR] bfloat16, zeros up to whole tiles
//   weights  a panel's pairs (PackedWeight)
//   totals   [rows][PANEL] float32, in the nearest cache while the sums are not in tiles
//
// Of a panel and a block of rows, stretches of inputs go by outside and tiles of rows inside: the weights of a stretch stay in
// the nearest cache.
#pragma once

#include "amx_tiles.h"

namespace octavo {
namespace OCTAVO_ISA {

class BFloat16Product {
 public:
  BFloat16Product(const Product& p, int64_t row_begin, int64_t row_end)
      : p_(p), cut_(row_end - row_begin), row_begin_(row_begin), row_end_(row_end),
        num_pairs_((p.weight->num_inputs + PAIR - 1) / PAIR), num_steps_((num_pairs_ + PAIRS_A_STEP - 1) / PAIRS_A_STEP),
        x_(p, row_begin, row_end, cut_.rows_a_tile) {}

  void run(int64_t panel_begin, int64_t panel_end, int64_t panel_next) {
    const TilesInUse tiles(layout());
    const PackedWeight& weight = *p_.weight;
    // Each step of a sweep fetches its share of the panel that comes next.
    const int64_t num_fetches = num_steps_ * ((cut_.num_tiles + TILES_A_SWEEP - 1) / TILES_A_SWEEP) * CACHE_LINE;
    lines_a_fetch_ = (weight.panel_bytes + num_fetches - 1) / num_fetches;
    const int64_t rows_a_block = TILES_A_BLOCK * cut_.rows_a_tile;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      next_ = weight.panel(panel + 1 < panel_end ? panel + 1 : panel_next);
      begin_panel(panel);
      for (int64_t block = row_begin_; block < row_end_; block += rows_a_block) {
        multiply(block, block + rows_a_block < row_end_ ? block + rows_a_block : row_end_, panel);
      }
    }
  }

 private:
  static constexpr int64_t PAIRS_A_STEP = LANES;
  static constexpr int64_t STEP_BYTES = PAIRS_A_STEP * PANEL_STRIDE;
  // Tiles of rows that go over weights together.
  static constexpr int64_t TILES_A_SWEEP = 2;
  // Steps whose weights stay in the nearest cache: 16 KiB.
  static constexpr int64_t STEPS_A_STRETCH = 8;
  // Tiles: sums, of each tile of rows its two halves, then inputs and weights.
  static constexpr int INPUTS = TILES_A_SWEEP * HALVES_A_PANEL, WEIGHTS = INPUTS + TILES_A_SWEEP;

  TileLayout layout() const {
    TileLayout layout;
    for (int tile = 0; tile < INPUTS; ++tile) layout.set_sums(tile, cut_.rows_a_tile);
    for (int tile = INPUTS; tile < WEIGHTS; ++tile) layout.set_inputs(tile, cut_.rows_a_tile, PAIRS_A_STEP);
    for (int tile = WEIGHTS; tile < NUM_TILES; ++tile) layout.set_weights(tile, PAIRS_A_STEP);
    return layout;
  }

  void begin_panel(int64_t panel) {
    weights_ = p_.weight->panel(panel);
    const int64_t last = num_steps_ - 1, left = num_pairs_ - last * PAIRS_A_STEP;
    if (left < PAIRS_A_STEP) copy_words(weights_ + last * STEP_BYTES, left, last_);
  }

  void multiply(int64_t block, int64_t block_end, int64_t panel) {
    const int64_t rows_a_sweep = TILES_A_SWEEP * cut_.rows_a_tile;
    // The sums of a single sweep stay in tiles.
    const int64_t stretch = block_end - block > rows_a_sweep ? STEPS_A_STRETCH : num_steps_;
    for (int64_t begin = 0; begin < num_steps_; begin += stretch) {
      const int64_t end = begin + stretch < num_steps_ ? begin + stretch : num_steps_;
      for (int64_t row = block; row < block_end; row += rows_a_sweep) {
        RowTotals* totals = totals_ + (row - block);
        if (row + cut_.rows_a_tile < block_end) {
          sweep<TILES_A_SWEEP>(row, block_end, panel, begin, end, totals);
        } else {
          sweep<1>(row, block_end, panel, begin, end, totals);
        }
      }
    }
    for (int64_t r = 0; r < block_end - block; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        store_half(p_, block + r, panel * HALVES_A_PANEL + h, load(totals_[r] + h * LANES));
      }
    }
  }

  // Adds what the steps [begin, end) give to the totals of some tiles of rows.
  template <int TILES>
  void sweep(int64_t row, int64_t block_end, int64_t panel, int64_t begin, int64_t end, RowTotals* totals) {
    const int64_t sweep_end = row + TILES * cut_.rows_a_tile, row_end = sweep_end < block_end ? sweep_end : block_end;
    const bool is_last = end == num_steps_;
    const int64_t second_row = row + cut_.rows_a_tile;
    RowTotals* second = totals + cut_.rows_a_tile;
    if (begin == 0) {
      clear_tile<0>();
      clear_tile<1>();
      if constexpr (TILES == 2) {
        clear_tile<2>();
        clear_tile<3>();
      }
    } else {
      load_tile<0>(totals, sizeof totals[0]);
      load_tile<1>(&totals[0][LANES], sizeof totals[0]);
      if constexpr (TILES == 2) {
        load_tile<2>(second, sizeof totals[0]);
        load_tile<3>(&second[0][LANES], sizeof totals[0]);
      }
    }
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t i = 0; i < lines_a_fetch_; ++i, next_ += CACHE_LINE) prefetch(next_);
      for (int64_t r = row + step - begin; is_last && r < row_end; r += end - begin) fetch_outputs(p_, r, panel);
      const uint8_t* weights = (step + 1) * PAIRS_A_STEP > num_pairs_ ? last_ : weights_ + step * STEP_BYTES;
      load_tile<WEIGHTS>(weights, PANEL_STRIDE);
      x_.load<INPUTS>(row, step * TILE_ROW_BYTES, PAIRS_A_STEP);
      add_bfloat16_products<0, INPUTS, WEIGHTS>();
      load_tile<WEIGHTS + 1>(weights + TILE_ROW_BYTES, PANEL_STRIDE);
      add_bfloat16_products<1, INPUTS, WEIGHTS + 1>();
      if constexpr (TILES == 2) {
        x_.load<INPUTS + 1>(second_row, step * TILE_ROW_BYTES, PAIRS_A_STEP);
        add_bfloat16_products<2, INPUTS + 1, WEIGHTS>();
        add_bfloat16_products<3, INPUTS + 1, WEIGHTS + 1>();
      }
    }
    store_tile<0>(totals, sizeof totals[0]);
    store_tile<1>(&totals[0][LANES], sizeof totals[0]);
    if constexpr (TILES == 2) {
      store_tile<2>(second, sizeof totals[0]);
      store_tile<3>(&second[0][LANES], sizeof totals[0]);
    }
  }

  const Product& p_;
  const TileCut cut_;
  const int64_t row_begin_, row_end_, num_pairs_, num_steps_;
  TileInputs x_;
  int64_t lines_a_fetch_ = 0;
  const uint8_t *weights_ = nullptr, *next_ = nullptr;
  alignas(CACHE_LINE) float totals_[ROWS_A_BLOCK][PANEL];
  alignas(CACHE_LINE) uint8_t last_[STEP_BYTES] = {};
};

inline void multiply_bfloat16(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                              int64_t panel_next) {
  BFloat16Product(p, row_begin, row_end).run(panel_begin, panel_end, panel_next);
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
