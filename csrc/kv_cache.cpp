#include "kv_cache.h"

#include <cstring>

namespace octavo {

void copy_blocks(uint8_t* base, int64_t block_bytes, const int64_t* sources, const int64_t* destinations, int64_t n) {
#pragma omp parallel for if (n > 1)
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(base + destinations[i] * block_bytes, base + sources[i] * block_bytes,
                static_cast<size_t>(block_bytes));
  }
}

}  // namespace octavo
