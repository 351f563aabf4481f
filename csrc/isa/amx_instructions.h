// AMX's instructions, written out: GCC's functions for them do not let a tile's number be a template's argument.
#pragma once

#include "amx_layout.h"

namespace octavo {
namespace OCTAVO_ISA {

OCTAVO_INLINE void use_tiles(const TileMemory& layout) { asm volatile("ldtilecfg %0" ::"m"(layout)); }
OCTAVO_INLINE void release_tiles() { asm volatile("tilerelease"); }
template <int TILE>
OCTAVO_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
// Between stores and the loading of what they stored: of that the compiler knows nothing.
OCTAVO_INLINE void finish_stores() { asm volatile("" ::: "memory"); }
template <int TILE>
OCTAVO_INLINE void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(TILE));
}
template <int TILE>
OCTAVO_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(TILE) : "memory");
}
// int32 sums of int8 activations times weights, which are int8 or uint8.
template <int SUMS, int X, int WEIGHTS>
OCTAVO_INLINE void add_products_of_unsigned() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(X), "i"(WEIGHTS));
}
template <int SUMS, int X, int WEIGHTS>
OCTAVO_INLINE void add_products_of_signed() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(X), "i"(WEIGHTS));
}
template <int SUMS, int X, int WEIGHTS>
OCTAVO_INLINE void add_bfloat16_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUMS), "i"(X), "i"(WEIGHTS));
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
