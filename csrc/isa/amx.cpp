// AVX-512's kernels, but for products of many rows, whose dot products are those of AMX's tiles.
#define OCTAVO_ISA amx
#include "amx_int8.h"

namespace octavo {
namespace {

// Rows from which tiles are faster.
constexpr int64_t MANY_ROWS = 5;

void product(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
             int64_t panel_next) {
  const bool in_tiles = p.weight->type == DataType::int8 && row_end - row_begin >= MANY_ROWS;
  const ProductFunction chosen = in_tiles ? amx::multiply_in_tiles<amx::Int8Spans> : avx512vbmi_kernels().product;
  chosen(p, row_begin, row_end, panel_begin, panel_end, panel_next);
}

KernelTable table() {
  KernelTable kernels = avx512vbmi_kernels();
  kernels.name = "amx";
  kernels.product = product;
  return kernels;
}

}  // namespace

const KernelTable& amx_kernels() {
  static const KernelTable kernels = table();
  return kernels;
}
}  // namespace octavo
