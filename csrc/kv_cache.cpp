#include "kv_cache.h"

#include <cstring>

namespace octavo {

void copy_blocks(const uint8_t* source, uint8_t* destination, int64_t block_bytes, const int64_t* source_ids,
                 const int64_t* destination_ids, int64_t n) {
#pragma omp parallel for if (n > 1)
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(destination + destination_ids[i] * block_bytes, source + source_ids[i] * block_bytes,
                static_cast<size_t>(block_bytes));
  }
}

}  // namespace octavo
