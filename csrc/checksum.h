// Telling whether bytes are what they were.
#pragma once

#include <cstdint>

#include "threads.h"

namespace octavo {

// A number that each byte changes, and their order: it tells damage, and is no defence against forgers. All threads read.
uint64_t checksum(ThreadPool& threads, const uint8_t* data, int64_t num_bytes);

}  // namespace octavo
