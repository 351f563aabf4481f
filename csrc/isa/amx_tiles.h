// AMX's tiles: eight two-dimensional registers of up to 16 rows of 64 bytes, and products of them: sums [rows][16] +=
// activations [rows][k] * weights [k][16], where each of k is a word: a quad of int8 or a pair of bfloat16. So half of a packed
// weight's panel is such weights as it is.
#pragma once

#include "product_tile.h"
#if defined(OCTAVO_EMULATION)
#include "emulation/amx.h"
#else
#include "amx_instructions.h"
#endif

namespace octavo {
namespace OCTAVO_ISA {

constexpr int64_t WORD_BYTES = 4;
constexpr int64_t TILE_ROW_BYTES = LANES * WORD_BYTES;
// From a word of inputs to the next in a panel.
constexpr int64_t PANEL_STRIDE = HALVES_A_PANEL * TILE_ROW_BYTES;

// What the tiles hold: sums and activations of `rows` rows, inputs by words.
class TileLayout {
 public:
  void set_sums(int tile, int64_t rows) { set(tile, rows, LANES); }
  void set_inputs(int tile, int64_t rows, int64_t words) { set(tile, rows, words); }
  void set_weights(int tile, int64_t words) { set(tile, words, LANES); }

 private:
  friend class TilesInUse;
  void set(int tile, int64_t rows, int64_t words) {
    memory_.rows[tile] = static_cast<uint8_t>(rows);
    memory_.row_bytes[tile] = static_cast<uint16_t>(words * WORD_BYTES);
  }
  TileMemory memory_;
};

// A thread has tiles while an object of this lives. Afterwards they cost nothing when threads take turns.
class TilesInUse {
 public:
  explicit TilesInUse(const TileLayout& layout) { use_tiles(layout.memory_); }
  ~TilesInUse() { release_tiles(); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
};

// Tiles of rows whose totals stay in the nearest cache.
constexpr int64_t TILES_A_BLOCK = 4;
constexpr int64_t ROWS_A_BLOCK = TILES_A_BLOCK * MOST_TILE_ROWS;
using RowTotals = float[PANEL];

// How a task's rows are cut into tiles: evenly, so that all tiles have one size. The last one may miss some rows.
struct TileCut {
  int64_t num_tiles, rows_a_tile;
  explicit TileCut(int64_t rows) : num_tiles((rows + MOST_TILE_ROWS - 1) / MOST_TILE_ROWS) {
    rows_a_tile = (rows + num_tiles - 1) / num_tiles;
  }
};

// Brings the memory of a row's outputs nearer, before many rows' are stored at once.
OCTAVO_INLINE void fetch_outputs(const Product& p, int64_t row, int64_t panel) {
  constexpr int FOR_WRITING = 1;
  const float* out = p.out + row * p.out_stride + panel * PANEL;
  __builtin_prefetch(out, FOR_WRITING);
  __builtin_prefetch(out + LANES, FOR_WRITING);
}

// A panel's last words of inputs, where a tile would read past them: what lies there may be no memory of ours.
OCTAVO_INLINE void copy_words(const uint8_t* weights, int64_t words, uint8_t* to) {
  for (int64_t i = 0; i < words * PANEL_STRIDE; i += CACHE_LINE) {
    _mm512_store_si512(to + i, _mm512_loadu_si512(weights + i));
  }
  finish_stores();
}

// The activations of a product's rows [row_begin, row_end). Where the rows follow one another tiles are loaded from where they
// lie, else from a copy.
class TileInputs {
 public:
  TileInputs(const Product& p, int64_t row_begin, int64_t row_end, int64_t rows_a_tile)
      : p_(p), row_end_(row_end), rows_a_tile_(rows_a_tile), shift_(source_row(p, row_begin) - row_begin) {
    for (int64_t row = row_begin + 1; row < row_end; ++row) in_order_ &= source_row(p, row) == row + shift_;
  }
  // The inputs at `offset` of a tile's rows, so many words, to the tile X.
  template <int X>
  OCTAVO_INLINE void load(int64_t row, int64_t offset, int64_t words) {
    if (in_order_ && row + rows_a_tile_ <= row_end_) {
      return load_tile<X>(p_.values + (row + shift_) * p_.values_stride + offset, p_.values_stride);
    }
    copy(row, offset, words);
    finish_stores();
    load_tile<X>(copy_, TILE_ROW_BYTES);
  }

 private:
  // The last row also takes the place of those that its tile misses.
  __attribute__((noinline)) void copy(int64_t row, int64_t offset, int64_t words) {
    const __mmask64 own = ~0ull >> (TILE_ROW_BYTES - words * WORD_BYTES);
    for (int64_t i = 0; i < rows_a_tile_; ++i) {
      const int64_t from = source_row(p_, row + i < row_end_ ? row + i : row_end_ - 1);
      _mm512_store_si512(copy_[i], _mm512_maskz_loadu_epi8(own, p_.values + from * p_.values_stride + offset));
    }
  }

  const Product& p_;
  int64_t row_end_, rows_a_tile_, shift_;
  bool in_order_ = true;
  alignas(CACHE_LINE) uint8_t copy_[MOST_TILE_ROWS][TILE_ROW_BYTES];
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
