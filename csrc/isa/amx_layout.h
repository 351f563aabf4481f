// What AMX's tiles hold, as the processor reads it.
#pragma once

#include "simd_common.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int NUM_TILES = 8;
constexpr int MOST_TILE_ROWS = 16;

struct alignas(CACHE_LINE) TileMemory {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[2 * NUM_TILES] = {};
  uint8_t rows[2 * NUM_TILES] = {};
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
