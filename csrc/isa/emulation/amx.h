// AMX's instructions as functions, as Intel's Intrinsics Guide has them: see avx512.h.
#pragma once

#include <cstring>

#include "../amx_layout.h"

namespace octavo {
namespace OCTAVO_ISA {

struct EmulatedTile {
  int rows = 0, row_bytes = 0;
  alignas(CACHE_LINE) uint8_t memory[MOST_TILE_ROWS][64] = {};

  template <class Number>
  Number at(int row, int i) const {
    Number number;
    std::memcpy(&number, memory[row] + i * sizeof number, sizeof number);
    return number;
  }
};
// A thread's; of no size where it has not said what they hold.
inline thread_local EmulatedTile emulated_tiles[NUM_TILES];

OCTAVO_INLINE EmulatedTile& tile_in_use(int tile) {
  if (emulated_tiles[tile].rows == 0) __builtin_trap();
  return emulated_tiles[tile];
}

inline void use_tiles(const TileMemory& layout) {
  for (int i = 0; i < NUM_TILES; ++i) {
    emulated_tiles[i] = {};
    emulated_tiles[i].rows = layout.rows[i];
    emulated_tiles[i].row_bytes = layout.row_bytes[i];
  }
}
inline void release_tiles() {
  for (auto& tile : emulated_tiles) tile = {};
}
template <int TILE>
void clear_tile() {
  std::memset(tile_in_use(TILE).memory, 0, sizeof(EmulatedTile::memory));
}
OCTAVO_INLINE void finish_stores() {}
template <int TILE>
void load_tile(const void* from, int64_t stride) {
  EmulatedTile& tile = tile_in_use(TILE);
  clear_tile<TILE>();
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(tile.memory[row], static_cast<const uint8_t*>(from) + row * stride, static_cast<size_t>(tile.row_bytes));
  }
}
template <int TILE>
void store_tile(void* to, int64_t stride) {
  const EmulatedTile& tile = tile_in_use(TILE);
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(static_cast<uint8_t*>(to) + row * stride, tile.memory[row], static_cast<size_t>(tile.row_bytes));
  }
}

// `function(row, column, word)` of each sum and of each word that it adds up.
template <class Function>
void for_products(const EmulatedTile& sums, const EmulatedTile& x, const EmulatedTile& weights, Function function) {
  if (sums.rows != x.rows || sums.row_bytes != weights.row_bytes || x.row_bytes != 4 * weights.rows) __builtin_trap();
  for (int row = 0; row < sums.rows; ++row) {
    for (int column = 0; column < sums.row_bytes / 4; ++column) {
      for (int word = 0; word < weights.rows; ++word) function(row, column, word);
    }
  }
}
template <class Weight>
void add_byte_products(EmulatedTile& sums, const EmulatedTile& x, const EmulatedTile& weights) {
  for_products(sums, x, weights, [&](int row, int column, int word) {
    auto sum = sums.at<uint32_t>(row, column);
    for (int i = 0; i < 4; ++i) {
      sum += static_cast<uint32_t>(x.at<int8_t>(row, 4 * word + i) * weights.at<Weight>(word, 4 * column + i));
    }
    std::memcpy(sums.memory[row] + 4 * column, &sum, sizeof sum);
  });
}
template <int SUMS, int X, int WEIGHTS>
void add_products_of_unsigned() {
  add_byte_products<uint8_t>(tile_in_use(SUMS), tile_in_use(X), tile_in_use(WEIGHTS));
}
template <int SUMS, int X, int WEIGHTS>
void add_products_of_signed() {
  add_byte_products<int8_t>(tile_in_use(SUMS), tile_in_use(X), tile_in_use(WEIGHTS));
}
// The first numbers of pairs and the second are added up apart.
template <int SUMS, int X, int WEIGHTS>
void add_bfloat16_products() {
  EmulatedTile &sums = tile_in_use(SUMS), &x = tile_in_use(X), &weights = tile_in_use(WEIGHTS);
  float apart[2] = {};
  for_products(sums, x, weights, [&](int row, int column, int word) {
    using octavo_emulated::flushed, octavo_emulated::widened;
    for (int i = 0; i < 2; ++i) {
      const float left = widened(x.at<uint16_t>(row, 2 * word + i));
      const float right = widened(weights.at<uint16_t>(word, 2 * column + i));
      apart[i] = flushed(__builtin_fmaf(left, right, word == 0 ? 0.0f : apart[i]));
    }
    if (word + 1 < weights.rows) return;
    const float sum = flushed(flushed(sums.at<float>(row, column)) + flushed(apart[0] + apart[1]));
    std::memcpy(sums.memory[row] + 4 * column, &sum, sizeof sum);
  });
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
