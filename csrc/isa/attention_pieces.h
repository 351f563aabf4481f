// A chunk's slots in pieces of sixteen, for a decoding row: where they lie in the cache, and the fetching of what is read
// next.
#pragma once

#include "../attention_kernels.h"
#include "attention_softmax.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int64_t PIECES = CHUNK / LANES;

// Where the slots of a chunk lie that an item's query sees: the layer's part of their record, and the place in the block.
// Pieces [first, last) have slots that are seen, at least one: items have no other chunks. Blocks are whole pieces.
struct Pieces {
  Visible seen;
  int64_t first, last;
  const uint8_t* layer[PIECES];
  int64_t offset[PIECES];

  OCTAVO_INLINE Pieces(const AttentionCall& call, const AttentionItem& item, int64_t chunk)
      : seen(call.spec, item.first_position, item.num_tokens, chunk),
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
// chunk's keys, block after block, then its values. As many bytes are asked for as are read, so the distance stays, however
// long the chunks are: short enough that what is fetched is still in the second-level cache when it is read, long enough for
// memory to answer.
class Ahead {
 public:
  OCTAVO_INLINE Ahead(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next)
      : call_(call), item_(&item), next_(&next) {
    enter_chunk(item.chunk_begin);
    for (int64_t left = AHEAD_BYTES; left > 0; left -= end_ - at_) enter_block();
  }
  // The next so many bytes to fetch, if they are in one block; at the end, the last ones again.
  OCTAVO_INLINE const uint8_t* take(int64_t bytes) {
    if (at_ + bytes > end_ && !enter_block()) return end_ - bytes;
    const uint8_t* taken = at_;
    at_ += bytes;
    return taken;
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

}  // namespace OCTAVO_ISA
}  // namespace octavo
