// AMX's tiles: eight two-dimensional registers of up to 16 rows of 64 bytes, and products of them. C [rows][16] += A [rows][k]
// * B [k][16], where k lies in words: a quad of int8 or a pair of bfloat16. So a packed weight's half of a panel is B as it is.
//
// The instructions are written out: the compiler's own functions for them do not tell it what memory they read.
#pragma once

#include "product_tile.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int NUM_TILES = 8;
constexpr int MOST_TILE_ROWS = 16;
constexpr int64_t WORD_BYTES = 4;
constexpr int64_t TILE_ROW_BYTES = LANES * WORD_BYTES;
// From a word of inputs to the next in a panel.
constexpr int64_t PANEL_STRIDE = HALVES_A_PANEL * TILE_ROW_BYTES;

// The tiles' sizes in a thread, while an object of this lives. Tiles that are released cost nothing when threads take turns.
class TileSizes {
 public:
  // `rows` of the tiles that are sums and activations, `words` of inputs in a tile of activations or weights. The tiles
  // [0, num_sums) are sums, `num_x` after them activations, and the others weights.
  TileSizes(int64_t num_sums, int64_t num_x, int64_t rows, int64_t words) {
    Layout layout = {};
    layout.palette = 1;
    for (int64_t tile = 0; tile < NUM_TILES; ++tile) {
      const bool is_sum = tile < num_sums, is_x = !is_sum && tile < num_sums + num_x;
      layout.rows[tile] = static_cast<uint8_t>(is_sum || is_x ? rows : words);
      layout.row_bytes[tile] = static_cast<uint16_t>(is_x ? words * WORD_BYTES : TILE_ROW_BYTES);
    }
    asm volatile("ldtilecfg %0" ::"m"(layout));
  }
  ~TileSizes() { asm volatile("tilerelease"); }
  TileSizes(const TileSizes&) = delete;
  TileSizes& operator=(const TileSizes&) = delete;

 private:
  struct alignas(CACHE_LINE) Layout {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  };
};

template <int TILE>
OCTAVO_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
template <int TILE>
OCTAVO_INLINE void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
OCTAVO_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(TILE) : "memory");
}
// int32 sums of signed activations times unsigned weights.
template <int SUMS, int X, int WEIGHTS>
OCTAVO_INLINE void add_int8_products() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(X), "i"(WEIGHTS));
}
template <int SUMS, int X, int WEIGHTS>
OCTAVO_INLINE void add_bfloat16_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(X), "i"(WEIGHTS));
}

// How rows are cut into tiles: evenly, so that all tiles of a task have one size. The last one may miss some rows.
struct TileCut {
  int64_t num_tiles, rows_a_tile;
  explicit TileCut(int64_t rows) : num_tiles((rows + MOST_TILE_ROWS - 1) / MOST_TILE_ROWS) {
    rows_a_tile = (rows + num_tiles - 1) / num_tiles;
  }
};

// The activations of some tiles. Those of rows that follow one another are loaded where they are, others from a copy.
template <int64_t TILES>
class TileInputs {
 public:
  // Of the rows [row, row_end) of a product, the tiles' missing ones at the end are the last one again.
  TileInputs(const Product& p, int64_t row, int64_t row_end, int64_t num_tiles, int64_t rows_a_tile)
      : stride_(p.values_stride), rows_a_tile_(rows_a_tile) {
    for (int64_t i = 0; i < num_tiles * rows_a_tile; ++i) {
      rows_[i] = p.values + source_row(p, row + i < row_end ? row + i : row_end - 1) * stride_;
    }
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const uint8_t* const* rows = rows_ + tile * rows_a_tile;
      in_order_[tile] = true;
      for (int64_t i = 1; i < rows_a_tile; ++i) in_order_[tile] &= rows[i] == rows[i - 1] + stride_;
    }
  }
  // The inputs at `offset` of a tile's rows, up to TILE_ROW_BYTES.
  template <int X>
  OCTAVO_INLINE void load(int64_t tile, int64_t offset, int64_t bytes) {
    const uint8_t* const* rows = rows_ + tile * rows_a_tile_;
    if (in_order_[tile]) return load_tile<X>(rows[0] + offset, stride_);
    const __mmask64 own = ~0ull >> (TILE_ROW_BYTES - bytes);
    for (int64_t i = 0; i < rows_a_tile_; ++i) {
      _mm512_storeu_si512(copy_[i], _mm512_maskz_loadu_epi8(own, rows[i] + offset));
    }
    load_tile<X>(copy_, TILE_ROW_BYTES);
  }

 private:
  const uint8_t* rows_[TILES * MOST_TILE_ROWS];
  bool in_order_[TILES];
  int64_t stride_, rows_a_tile_;
  alignas(CACHE_LINE) uint8_t copy_[MOST_TILE_ROWS][TILE_ROW_BYTES];
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
