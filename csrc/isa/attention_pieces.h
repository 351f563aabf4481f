// A chunk's slots in pieces of sixteen: where their keys and values lie, in the cache or copied, and the fetching of what a
// decoding row reads next.
#pragma once

#include <cstring>

#include "../attention_kernels.h"
#include "attention_item.h"

namespace octavo {
namespace OCTAVO_ISA {

constexpr int64_t PIECES = CHUNK / LANES;

// The slots of a chunk that an item's queries see, the first one's oldest to the last one's newest.
OCTAVO_INLINE Visible seen_by(const AttentionCall& call, const AttentionItem& item, int64_t chunk) {
  const Visible first(call.spec, item.first_position, item.num_tokens, chunk);
  const Visible last(call.spec, item.first_position + item.num_queries - 1, item.num_tokens, chunk);
  return {first.begin, last.end};
}

// Keys or values of one KV head in a chunk's pieces [first, last): those with slots that are seen, at least one.
//   keys    [head_dim / unit][stride], of which LANES slots of a unit each are the piece's
//   values  [LANES / unit][stride], of which whole vectors of a unit each are read, past head_dim zeros
struct HeadPieces {
  Visible seen;
  int64_t first, last;
  const uint8_t* at[PIECES];
  int64_t stride;  // bytes
};

// Rows of `bytes` each, a piece's at most, `from_stride` and `to_stride` apart: in powers of two, so that each is a move.
template <int64_t BYTES>
OCTAVO_INLINE void copy_columns_of(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) __builtin_memcpy(to + row * to_stride, from + row * from_stride, BYTES);
}
inline void copy_columns(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride, int64_t rows,
                         int64_t bytes) {
  while (bytes > 0) {
    const int64_t part = int64_t{1} << (63 - __builtin_clzll(static_cast<unsigned long long>(bytes)));
    switch (part) {
      case 1: copy_columns_of<1>(from, from_stride, to, to_stride, rows); break;
      case 2: copy_columns_of<2>(from, from_stride, to, to_stride, rows); break;
      case 4: copy_columns_of<4>(from, from_stride, to, to_stride, rows); break;
      case 8: copy_columns_of<8>(from, from_stride, to, to_stride, rows); break;
      case 16: copy_columns_of<16>(from, from_stride, to, to_stride, rows); break;
      case 32: copy_columns_of<32>(from, from_stride, to, to_stride, rows); break;
      default: copy_columns_of<64>(from, from_stride, to, to_stride, rows); break;
    }
    from += part;
    to += part;
    bytes -= part;
  }
}

// The slots of a chunk that an item's queries see, at least one. Kernels read pieces and whole vectors: in place where blocks
// are made of them, else from copies, of which there is one at a time.
class Pieces {
 public:
  OCTAVO_INLINE static bool are_in_place(const AttentionCall& call) {
    return call.cache.block_size % LANES == 0 && call.spec.head_dim % LANES == 0;
  }

  OCTAVO_INLINE Pieces(const AttentionCall& call, const AttentionItem& item, int64_t chunk, const Scratch& s)
      : seen(seen_by(call, item, chunk)),
        first(seen.begin / LANES),
        last((seen.end + LANES - 1) / LANES),
        call_(call),
        cache_(call.cache),
        copies_(reinterpret_cast<uint8_t*>(s.copies)),
        width_(s.width),
        unit_(cache_.has_scales ? 2 : 1),
        table_(call.block_tables + item.table * call.max_blocks),
        start_(chunk * CHUNK),
        are_in_place_(are_in_place(call)) {
    if (!are_in_place_) return;
    for_runs([this](const uint8_t* layer, int64_t offset, int64_t slot, int64_t) {
      layer_[slot / LANES] = layer;
      offset_[slot / LANES] = offset;
    });
  }

  OCTAVO_INLINE HeadPieces keys(int64_t kv_head) const {
    const int64_t unit_bytes = unit_ * cache_.item_bytes;
    if (are_in_place_) return placed(cache_.keys_at(kv_head), unit_bytes, cache_.block_size * unit_bytes);
    copy_keys(kv_head);
    return copied(LANES * unit_bytes);
  }
  OCTAVO_INLINE HeadPieces values(int64_t kv_head) const {
    const int64_t slot_bytes = cache_.head_dim * cache_.item_bytes;
    if (are_in_place_) return placed(cache_.values_at(kv_head), slot_bytes, slot_bytes * unit_);
    copy_values(kv_head);
    return copied(width_ * unit_ * cache_.item_bytes);
  }
  // Brings a KV head's scales nearer: a few bytes of each block, which the fetching of keys and values passes over.
  OCTAVO_INLINE void fetch_scales(int64_t kv_head) const {
    if (!are_in_place_) return;
    for (int64_t i = first; i < last; ++i) {
      const uint8_t* at = layer_[i] + offset_[i] * SCALE_BYTES;
      prefetch(at + cache_.key_scales_at(kv_head));
      prefetch(at + cache_.value_scales_at(kv_head));
    }
  }
  OCTAVO_INLINE void gather_scales(int64_t kv_head, const Scratch& s) const {
    for_runs([&](const uint8_t* layer, int64_t offset, int64_t slot, int64_t count) {
      const uint8_t* at = layer + offset * SCALE_BYTES;
      const auto bytes = static_cast<size_t>(count * SCALE_BYTES);
      std::memcpy(s.key_scales + slot, at + cache_.key_scales_at(kv_head), bytes);
      std::memcpy(s.value_scales + slot, at + cache_.value_scales_at(kv_head), bytes);
    });
  }

  const Visible seen;
  const int64_t first, last;

 private:
  // `function(layer, offset, slot, count)` for each run of slots, from the one of the chunk on, that lie together in a piece
  // and in a block, from its slot `offset` on; of the first piece the seen ones.
  template <class Function>
  OCTAVO_INLINE void for_runs(Function function) const {
    const int64_t size = cache_.block_size;
    int64_t slot = are_in_place_ ? first * LANES : seen.begin / unit_ * unit_;
    const int64_t* block = table_ + (start_ + slot) / size;
    int64_t offset = (start_ + slot) % size;
    while (slot < seen.end) {
      const int64_t in_piece = LANES - slot % LANES, in_block = size - offset;
      const int64_t count = in_piece < in_block ? in_piece : in_block;
      function(cache_.layer(*block, call_.spec.layer), offset, slot, count);
      slot += count;
      offset += count;
      if (offset == size) {
        offset = 0;
        ++block;
      }
    }
  }

  void copy_keys(int64_t kv_head) const {
    const int64_t head_dim = cache_.head_dim, size = cache_.block_size, unit_bytes = unit_ * cache_.item_bytes;
    for_runs([&](const uint8_t* layer, int64_t offset, int64_t slot, int64_t count) {
      const uint8_t* from = layer + cache_.keys_at(kv_head);
      uint8_t* piece = copies_ + slot / LANES * LANES * width_ * cache_.item_bytes;
      if (cache_.key_unit() == unit_) {
        copy_columns(from + offset * unit_bytes, size * unit_bytes, piece + slot % LANES * unit_bytes, LANES * unit_bytes,
                     head_dim / unit_, count * unit_bytes);
        return;
      }
      for (int64_t d = 0; d < head_dim; ++d) {
        for (int64_t i = 0; i < count; ++i) {
          piece[KVCacheView::place(unit_, LANES, d, slot % LANES + i)] = from[cache_.key_at(d, offset + i)];
        }
      }
    });
  }
  void copy_values(int64_t kv_head) const {
    const int64_t row_bytes = cache_.head_dim * unit_ * cache_.item_bytes, stride = width_ * unit_ * cache_.item_bytes;
    for_runs([&](const uint8_t* layer, int64_t offset, int64_t slot, int64_t count) {
      const uint8_t* from = layer + cache_.values_at(kv_head);
      if (cache_.value_unit() == unit_) {
        for (int64_t i = 0; i < count / unit_; ++i) {
          uint8_t* to = copies_ + (slot / unit_ + i) * stride;
          std::memcpy(to, from + (offset / unit_ + i) * row_bytes, static_cast<size_t>(row_bytes));
          std::memset(to + row_bytes, 0, static_cast<size_t>(stride - row_bytes));
        }
        return;
      }
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t d = 0; d < cache_.head_dim; ++d) {
          copies_[KVCacheView::place(unit_, width_, slot + i, d)] = from[cache_.value_at(offset + i, d)];
        }
      }
    });
  }

  OCTAVO_INLINE HeadPieces placed(int64_t head_at, int64_t slot_bytes, int64_t stride) const {
    HeadPieces out{seen, first, last, {}, stride};
    for (int64_t i = first; i < last; ++i) out.at[i] = layer_[i] + head_at + offset_[i] * slot_bytes;
    return out;
  }
  OCTAVO_INLINE HeadPieces copied(int64_t stride) const {
    HeadPieces out{seen, first, last, {}, stride};
    for (int64_t i = first; i < last; ++i) out.at[i] = copies_ + i * LANES * width_ * cache_.item_bytes;
    return out;
  }

  const AttentionCall& call_;
  const KVCacheView& cache_;
  uint8_t* const copies_;  // Scratch::copies
  const int64_t width_;
  const int64_t unit_;  // of a key's dimensions, and of a value's slots, that lie together
  const int64_t* const table_;
  const int64_t start_;  // the chunk's first position
  const bool are_in_place_;
  // Of pieces in place: the layer's part of the record, and the place in the block.
  const uint8_t* layer_[PIECES];
  int64_t offset_[PIECES];
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
