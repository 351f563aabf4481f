// A chunk's slots in pieces of sixteen, for a decoding row: where they lie in the cache, and the fetching of what is read
// next.
#pragma once

#include "../attention_kernels.h"
#include "attention_softmax.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int64_t PIECES = CHUNK / LANES;

// The slots of a chunk that an item's queries see, the first one's oldest to the last one's newest.
OCTAVO_INLINE Visible seen_by(const AttentionCall& call, const AttentionItem& item, int64_t chunk) {
  const Visible first(call.spec, item.first_position, item.num_tokens, chunk);
  const Visible last(call.spec, item.first_position + item.num_queries - 1, item.num_tokens, chunk);
  return {first.begin, last.end};
}

// Where the slots of a chunk lie that an item's queries see: the layer's part of their record, and the place in the block.
// Pieces [first, last) have slots that are seen, at least one: items have no other chunks. Blocks are whole pieces.
struct Pieces {
  Visible seen;
  int64_t first, last;
  const uint8_t* layer[PIECES];
  int64_t offset[PIECES];

  OCTAVO_INLINE Pieces(const AttentionCall& call, const AttentionItem& item, int64_t chunk)
      : seen(seen_by(call, item, chunk)),
        first(seen.begin / LANES),
        last((seen.end + LANES - 1) / LANES) {
    const int64_t size = call.cache.block_size, position = chunk * CHUNK + first * LANES;
    const int64_t* block = call.block_tables + item.table * call.max_blocks + position / size;
    int64_t place = position % size;
    for (int64_t i = first; i < last; ++i) {
      layer[i] = call.cache.layer(*block, call.spec.layer);
      offset[i] = place;
      place += LANES;
      if (place == size) {
        place = 0;
        ++block;
      }
    }
  }
};

// Brings nearer what is read AHEAD_BYTES later, of the item and then of the one that follows, in the order of reading: a
// chunk's keys, block after block, then its values. As much is asked for as is read, so the distance stays, however long the
// chunks are: short enough that what is fetched is still in the second-level cache when it is read, long enough for memory to
// answer.
class Ahead {
 public:
  OCTAVO_INLINE Ahead(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next)
      : call_(call), item_(&item), next_(&next) {
    enter_chunk(item.chunk_begin);
    for (int64_t left = AHEAD_BYTES; left > 0; left -= end_ - at_) enter_block();
  }
  // The next so many bytes, which the caller fetches line by line while it reads as many; at the end, the last ones again.
  OCTAVO_INLINE const uint8_t* take(int64_t bytes) {
    if (at_ + bytes > end_) {
      for (; at_ < end_; at_ += CACHE_LINE) prefetch(at_);
      if (!enter_block()) return end_ - bytes;
    }
    const uint8_t* taken = at_;
    at_ += bytes;
    return taken;
  }
  // Fetches the next lines.
  OCTAVO_INLINE void fetch(int64_t lines) {
    for (int64_t i = 0; i < lines; ++i) {
      if (at_ >= end_ && !enter_block()) return;
      prefetch(at_);
      at_ += CACHE_LINE;
    }
  }

 private:
  static constexpr int64_t AHEAD_BYTES = 16 << 10;

  __attribute__((noinline)) bool enter_block() {
    if (block_ == end_block_) {
      if (!are_values_) {
        are_values_ = true;
        block_ = first_block_;
      } else if (chunk_ + 1 < item_->chunk_end) {
        enter_chunk(chunk_ + 1);
      } else if (item_ != next_) {
        item_ = next_;
        enter_chunk(item_->chunk_begin);
      } else {
        return false;
      }
    }
    const KVCacheView& cache = call_.cache;
    const int64_t head = item_->kv_head_begin, num_heads = item_->kv_head_end - head;
    const uint8_t* layer = cache.layer(call_.block_tables[item_->table * call_.max_blocks + block_++], call_.spec.layer);
    at_ = layer + (are_values_ ? cache.values_at(head) : cache.keys_at(head));
    end_ = at_ + num_heads * cache.head_bytes();
    return true;
  }
  void enter_chunk(int64_t chunk) {
    const Visible seen(call_.spec, item_->first_position, item_->num_tokens, chunk);
    const int64_t first = chunk * CHUNK, size = call_.cache.block_size;
    chunk_ = chunk;
    are_values_ = false;
    block_ = first_block_ = (first + seen.begin) / size;
    end_block_ = (first + seen.end + size - 1) / size;
  }

  const AttentionCall& call_;
  const AttentionItem *item_, *next_;
  int64_t chunk_ = 0, block_ = 0, first_block_ = 0, end_block_ = 0;
  bool are_values_ = false;
  const uint8_t *at_ = nullptr, *end_ = nullptr;
};

// What to fetch while `read` and what follows are read. What is read again needs nothing ahead.
OCTAVO_INLINE const uint8_t* take(Ahead* ahead, int64_t bytes, const void* read) {
  return ahead ? ahead->take(bytes) : static_cast<const uint8_t*>(read);
}

OCTAVO_INLINE void prefetch_lines(const uint8_t* from, int64_t bytes) {
  OCTAVO_UNROLL
  for (int64_t line = 0; line < bytes; line += CACHE_LINE) prefetch(from + line);
}

// Query vectors that read a key or a value together, at the most; more do so in parts.
constexpr int MAX_HEADS = 8;

// `function(first, size, ahead)` for each part of `count` query vectors, of even sizes. The first one fetches what is ahead:
// the others read the same again.
template <class Function>
OCTAVO_INLINE void for_parts(int64_t count, Ahead* ahead, Function function) {
  const int64_t num_parts = (count + MAX_HEADS - 1) / MAX_HEADS;
  for (int64_t part = 0; part < num_parts; ++part) {
    const int64_t first = count * part / num_parts, size = count * (part + 1) / num_parts - first;
    function(first, size, part == 0 ? ahead : nullptr);
  }
}

// Vectors of slots, or of values, that so many query vectors sum together: independent chains, as many as the registers
// hold.
#if defined(__AVX512F__)
constexpr int vectors_for(int heads) { return heads > 6 ? 2 : 4; }
#elif defined(__AVX2__)
constexpr int vectors_for(int heads) { return heads > 3 ? 1 : heads == 1 ? 4 : 2; }
#else
constexpr int vectors_for(int) { return 1; }
#endif

}  // namespace OCTAVO_ISA
}  // namespace octavo
