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

enum class Part { keys, values };

// Fetches the keys or the values of an item's heads in a chunk, in the order of their addresses, however they are read:
// memory is slow to leave for another page.
class NextPieces {
 public:
  OCTAVO_INLINE NextPieces(const AttentionCall& call, const AttentionItem& item, const Pieces& pieces, Part part)
      : pieces_(pieces), piece_(pieces.first), pieces_a_block_(call.cache.block_size / LANES) {
    const int64_t head_bytes = call.cache.head_bytes();
    start_ = (item.kv_head_begin + (part == Part::values ? call.spec.num_kv_heads : 0)) * head_bytes;
    size_ = (item.kv_head_end - item.kv_head_begin) * head_bytes;
    enter();
  }
  // The next so many bytes to fetch, if they are in one block; at the end, again the last ones.
  OCTAVO_INLINE const uint8_t* take(int64_t bytes) {
    if (at_ + bytes > end_) {
      if (piece_ + pieces_a_block_ >= pieces_.last) return at_;
      piece_ += pieces_a_block_;
      enter();
    }
    const uint8_t* taken = at_;
    at_ += bytes;
    return taken;
  }

 private:
  OCTAVO_INLINE void enter() {
    at_ = pieces_.layer[piece_] + start_;
    end_ = at_ + size_;
  }

  const Pieces& pieces_;
  int64_t piece_, pieces_a_block_, start_, size_;
  const uint8_t *at_, *end_;
};

}  // namespace OCTAVO_ISA
}  // namespace octavo
