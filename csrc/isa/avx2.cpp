#define OCTAVO_ISA avx2
#include "table.h"

namespace octavo {
const KernelTable& avx2_kernels() { return avx2::table(); }
}  // namespace octavo
