#define OCTAVO_ISA avx512
#include "table.h"

namespace octavo {
const KernelTable& avx512_kernels() { return avx512::table(); }
}  // namespace octavo
