#define OCTAVO_ISA portable
#include "table.h"

namespace octavo {
const KernelTable& portable_kernels() { return portable::table(); }
}  // namespace octavo
