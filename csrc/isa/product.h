// Products of activations with a packed weight.
//
//   x        [num_rows, num_inputs], in the weight's form (product_input.h)
//   weight   [num_panels][num_inputs][PANEL outputs], and how inputs lie in it (PackedWeight)
//   out      [num_rows, num_outputs] float32
//
// A micro kernel holds the sums of some rows by some halves of panels in registers while it goes over all inputs once. So a
// weight is read from memory once for up to MAX_ROWS rows and from the nearest cache for those after them, and each output
// is one chain of multiply-adds over its inputs in order, whatever the batch.
#pragma once

#include "product_bfloat16.h"
#include "product_float.h"
#include "product_int8.h"

namespace octavo {
namespace OCTAVO_ISA {

using TileFunction = void (*)(const Product&, int64_t row, int64_t half, NextWeights next);

// One weight type's tiles, by the number of rows less one.
struct Tiles {
  TileFunction wide[MAX_ROWS];    // of halves_for(rows)
  TileFunction narrow[MAX_ROWS];  // of MIN_HALVES
  int64_t inputs;                 // an iteration
};

template <class Tile, int ROWS = MAX_ROWS>
void fill(Tiles& tiles) {
  tiles.wide[ROWS - 1] = Tile::template run<ROWS, halves_for(ROWS)>;
  tiles.narrow[ROWS - 1] = Tile::template run<ROWS, MIN_HALVES>;
  if constexpr (ROWS > 1) fill<Tile, ROWS - 1>(tiles);
}

template <class Tile>
Tiles all_tiles() {
  Tiles tiles;
  tiles.inputs = Tile::INPUTS;
  fill<Tile>(tiles);
  return tiles;
}

// In the order of DataType.
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
  const int64_t wide = num_tiles == 1 ? halves_for(num_rows) : MIN_HALVES, end = HALVES_A_PANEL * panel_end;
  for (int64_t half = HALVES_A_PANEL * panel_begin; half < end;) {
    const int64_t num_halves = half + wide <= end ? wide : MIN_HALVES;
    // The sweeps over these panels, a tile each, fetch as many that come next, each its share.
    const int64_t num_panels = (num_halves + HALVES_A_PANEL - 1) / HALVES_A_PANEL;
    const int64_t following = half / HALVES_A_PANEL + num_panels;
    const uint8_t* next = weight.panel(following < panel_end ? following : panel_next);
    const int64_t num_sweeps = num_tiles * (num_halves < HALVES_A_PANEL ? HALVES_A_PANEL : 1);
    const int64_t share = weight.panel_bytes * num_panels / num_sweeps;
    int64_t row = row_begin;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      // Rows are shared out evenly, as a tile of few rows costs nearly what a full one does.
      const int64_t rows = (row_end - row + num_tiles - tile - 1) / (num_tiles - tile);
      const int64_t sweep = tile + half % HALVES_A_PANEL * num_tiles;
      const NextWeights fetched{next + sweep * share, share / num_iterations};
      (num_halves > MIN_HALVES ? tiles.wide : tiles.narrow)[rows - 1](p, row, half, fetched);
      row += rows;
    }
    half += num_halves;
  }
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
