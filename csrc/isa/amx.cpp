// AVX-512's kernels, but for products of many rows, whose dot products are those of AMX's tiles.
#define OCTAVO_ISA amx
#include "amx_bfloat16.h"
#include "amx_grouped.h"
#include "amx_int8.h"

namespace octavo {
namespace {

// Rows from which tiles are faster. A grouped weight's sums of few inputs each take more work outside of tiles.
constexpr int64_t MANY_ROWS = 8, MANY_ROWS_OF_GROUPED = 24;

ProductFunction product_with(DataType type, int64_t num_rows) {
  if (type == DataType::bfloat16) return amx::multiply_bfloat16;
  if (type == DataType::int8 && num_rows >= MANY_ROWS) return amx::multiply_in_spans<amx::Int8Spans>;
  return avx512vbmi_kernels().product;
}

void product(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
             int64_t panel_next) {
  product_with(p.weight->type, row_end - row_begin)(p, row_begin, row_end, panel_begin, panel_end, panel_next);
}

ProductFunction grouped_product_with(const PackedWeight& weight, int64_t num_rows) {
  // Groups of half a step would take twice the work.
  if (num_rows < MANY_ROWS_OF_GROUPED || weight.group < STEP) return avx512vbmi_kernels().grouped_product;
  if (weight.bits == 4) return amx::multiply_in_spans<amx::GroupedSpans<amx::FourBits>>;
  return amx::multiply_in_spans<amx::GroupedSpans<amx::EightBits>>;
}

void grouped_product(const Product& p, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                     int64_t panel_next) {
  grouped_product_with(*p.weight, row_end - row_begin)(p, row_begin, row_end, panel_begin, panel_end, panel_next);
}

KernelTable table() {
  KernelTable kernels = avx512vbmi_kernels();
  kernels.name = "amx";
  kernels.bfloat16_form = Form::bfloat16;
  kernels.product = product;
  kernels.grouped_product = grouped_product;
  return kernels;
}

}  // namespace

const KernelTable& amx_kernels() {
  static const KernelTable kernels = table();
  return kernels;
}
}  // namespace octavo
