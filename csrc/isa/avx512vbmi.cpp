// AVX-512's kernels, but for products that unpack weights of 4 bits.
#define OCTAVO_ISA avx512vbmi
#include "product_grouped.h"

namespace octavo {
namespace {

KernelTable table() {
  KernelTable kernels = avx512_kernels();
  kernels.name = "avx512vbmi";
  kernels.grouped_product = avx512vbmi::grouped_product;
  return kernels;
}

}  // namespace

const KernelTable& avx512vbmi_kernels() {
  static const KernelTable kernels = table();
  return kernels;
}
}  // namespace octavo
