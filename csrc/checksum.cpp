#include "checksum.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace octavo {
namespace {

// Read by one thread at a time. Part of the definition: the pieces' sums are summed once more.
constexpr int64_t PIECE_BYTES = 1 << 20;
// Words that are summed side by side, so that one multiplication need not wait for another.
constexpr int64_t NUM_CHAINS = 8;
// Odd: multiplying by it loses nothing (FNV's prime of 64 bits).
constexpr uint64_t MULTIPLIER = 0x100000001B3;

// Any one changed word changes the sum, as each step is a bijection of what came before.
uint64_t mixed(uint64_t sum, uint64_t word) {
  const uint64_t product = (sum ^ word) * MULTIPLIER;
  return product ^ (product >> 29);
}

uint64_t sum_of(const uint8_t* data, int64_t num_bytes) {
  uint64_t chains[NUM_CHAINS];
  for (int64_t chain = 0; chain < NUM_CHAINS; ++chain) chains[chain] = static_cast<uint64_t>(chain + 1);
  int64_t at = 0;
  for (; at + NUM_CHAINS * 8 <= num_bytes; at += NUM_CHAINS * 8) {
    uint64_t words[NUM_CHAINS];
    std::memcpy(words, data + at, sizeof words);
    for (int64_t chain = 0; chain < NUM_CHAINS; ++chain) chains[chain] = mixed(chains[chain], words[chain]);
  }
  uint64_t sum = static_cast<uint64_t>(num_bytes);
  for (const uint64_t chain : chains) sum = mixed(sum, chain);
  for (; at < num_bytes; ++at) sum = mixed(sum, data[at]);
  return sum;
}

}  // namespace

uint64_t checksum(ThreadPool& threads, const uint8_t* data, int64_t num_bytes) {
  const int64_t num_pieces = (num_bytes + PIECE_BYTES - 1) / PIECE_BYTES;
  std::vector<uint64_t> sums(static_cast<size_t>(num_pieces));
  threads.for_each(num_pieces, [&](int64_t piece) {
    const int64_t begin = piece * PIECE_BYTES;
    sums[static_cast<size_t>(piece)] = sum_of(data + begin, std::min(PIECE_BYTES, num_bytes - begin));
  });
  return sum_of(reinterpret_cast<const uint8_t*>(sums.data()), num_pieces * 8);
}

}  // namespace octavo
