#include "kv_cache.h"

#include <cstring>

namespace octavo {

void copy_blocks(const uint8_t* source, uint8_t* destination, int64_t block_bytes, const int64_t* source_ids,
                 const int64_t* destination_ids, int64_t n, ThreadPool& threads) {
  threads.for_each(n, [&](int64_t i) {
    std::memcpy(destination + destination_ids[i] * block_bytes, source + source_ids[i] * block_bytes,
                static_cast<size_t>(block_bytes));
  });
}

}  // namespace octavo
