#define OCTAVO_ISA avx512bf16
#include "table.h"

namespace octavo {
const KernelTable& avx512bf16_kernels() { return avx512bf16::table(); }
}  // namespace octavo
