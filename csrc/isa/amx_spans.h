// Products of int8 activations by AMX. Spans of inputs have integer sums of their own, which are exact, made in tiles, then
// scaled and added to the totals span after span, as the kernels for few rows do it: with the same bits.
//
//   sums     [rows of a tile][PANEL] int32, stored from tiles
//   totals   [rows][PANEL] float32, in the nearest cache
//
// Of a panel and a block of rows, spans go by outside and tiles of rows inside: a span's weights stay in tiles. The sums of
// the tile before are added while those of a tile are made.
#pragma once

#include "amx_tiles.h"
#include "quads.h"

namespace octavo {
namespace OCTAVO_ISA {

using SpanSums = int32_t[MOST_TILE_ROWS][PANEL];

// Sixteen outputs of a row.
OCTAVO_INLINE I32x16 sums_of(const SpanSums& sums, int64_t row, int half) {
  return {_mm512_load_si512(sums[row] + half * LANES)};
}

// The kind of weight, `Spans`, has
//   count()                 spans of a panel
//   layout(rows)            of tiles: 0 and 1 are sums
//   begin_panel(panel)
//   load_weights(span)      to tiles, of one span after another
//   multiply(x, row, span)  adds products of a tile of rows to the tiles 0 and 1
//   add(...)                a tile's sums to their totals; the rows are the product's from `row` on
template <class Spans>
class SpansProduct {
 public:
  SpansProduct(const Product& p, int64_t row_begin, int64_t row_end)
      : p_(p), row_begin_(row_begin), row_end_(row_end), cut_(row_end - row_begin),
        x_(p, row_begin, row_end, cut_.rows_a_tile), spans_(p) {}

  void run(int64_t panel_begin, int64_t panel_end, int64_t panel_next) {
    const TilesInUse tiles(Spans::layout(cut_.rows_a_tile));
    const PackedWeight& weight = *p_.weight;
    // Every product of tiles fetches its share of the panel that comes next.
    const int64_t num_fetches = spans_.count() * cut_.num_tiles * CACHE_LINE;
    lines_a_fetch_ = (weight.panel_bytes + num_fetches - 1) / num_fetches;
    const int64_t rows_a_block = TILES_A_BLOCK * cut_.rows_a_tile;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      next_ = weight.panel(panel + 1 < panel_end ? panel + 1 : panel_next);
      for (int64_t block = row_begin_; block < row_end_; block += rows_a_block) {
        multiply(panel, block, block + rows_a_block < row_end_ ? block + rows_a_block : row_end_);
      }
    }
  }

 private:
  void multiply(int64_t panel, int64_t block, int64_t block_end) {
    clear_totals(block_end - block);
    spans_.begin_panel(panel);
    const int64_t rows_a_tile = cut_.rows_a_tile, lines_a_fetch = lines_a_fetch_, num_spans = spans_.count();
    const uint8_t* next = next_;
    // Whose sums are to be added.
    int64_t waiting_row = block, waiting_span = -1;
    const auto add_waiting = [&] {
      if (waiting_span < 0) return;
      const int64_t left = block_end - waiting_row, num_rows = left < rows_a_tile ? left : rows_a_tile;
      spans_.add(sums_, waiting_row, num_rows, waiting_span, totals_ + (waiting_row - block));
    };
    for (int64_t span = 0; span < num_spans; ++span) {
      spans_.load_weights(span);
      for (int64_t row = block; row < block_end; row += rows_a_tile) {
        for (int64_t line = 0; line < lines_a_fetch; ++line, next += CACHE_LINE) prefetch(next);
        for (int64_t r = row + span; r < block_end && r < row + rows_a_tile; r += num_spans) fetch_outputs(p_, r, panel);
        clear_tile<0>();
        clear_tile<1>();
        spans_.multiply(x_, row, span);
        add_waiting();
        store_tile<0>(sums_, sizeof sums_[0]);
        store_tile<1>(&sums_[0][LANES], sizeof sums_[0]);
        waiting_row = row, waiting_span = span;
      }
    }
    add_waiting();
    next_ = next;
    store_totals(panel, block, block_end - block);
  }

  void clear_totals(int64_t num_rows) {
    for (int64_t r = 0; r < num_rows; ++r) {
      store(totals_[r], zero());
      store(totals_[r] + LANES, zero());
    }
  }
  // Times the weights' scales.
  void store_totals(int64_t panel, int64_t row, int64_t num_rows) const {
    F32x16 scales[HALVES_A_PANEL];
    OCTAVO_UNROLL
    for (int h = 0; h < HALVES_A_PANEL; ++h) scales[h] = load(p_.weight->scales + panel * PANEL + h * LANES);
    for (int64_t r = 0; r < num_rows; ++r) {
      OCTAVO_UNROLL
      for (int h = 0; h < HALVES_A_PANEL; ++h) {
        store_half(p_, row + r, panel * HALVES_A_PANEL + h, load(totals_[r] + h * LANES) * scales[h]);
      }
    }
  }

  const Product& p_;
  const int64_t row_begin_, row_end_;
  const TileCut cut_;
  TileInputs x_;
  Spans spans_;
  int64_t lines_a_fetch_ = 0;
  const uint8_t* next_ = nullptr;
  alignas(CACHE_LINE) SpanSums sums_;
  alignas(CACHE_LINE) float totals_[ROWS_A_BLOCK][PANEL];
};

template <class Spans>
void multiply_in_spans(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                       int64_t panel_next) {
  SpansProduct<Spans>(p, row_begin, row_end).run(panel_begin, panel_end, panel_next);
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
