#define OCTAVO_ISA portable
#include "isa_table.h"

namespace octavo {
const KernelTable& portable_kernels() { return portable::table(); }
}  // namespace octavo
