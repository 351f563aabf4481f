// Paged attention over a ragged batch (paper, section 4.1): the write of new tokens into the cache, and attention of their
// queries over their rows' blocks.
//
// One algorithm on two paths. A chunk's scores are sums over the head's dimensions in order, its weights e^(score - the
// chunk's largest), their total a sum in a fixed order of lanes, its values sums over the slots in order. `attend_decode`
// reads pieces of them straight into registers, for the single query of a decoding row; `attend_tile` widens a chunk to float32
// once for the many vectors of a prefill. Both give a query the same bits. An int8 cache has one path, of integers
// (`attend_int8`).
#pragma once

#include "attention_decode.h"
#include "attention_int8.h"
#include "attention_tile.h"
#include "attention_write.h"

namespace octavo {
namespace OCTAVO_ISA {

template <class Element>
void attend_as(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  if (item.num_queries == 1) {
    attend_decode<Element>(call, item, next, memory);
  } else {
    attend_tile<Element>(call, item, memory);
  }
}

inline void attend(const AttentionCall& call, const AttentionItem& item, const AttentionItem& next, float* memory) {
  switch (call.cache_type) {
    case DataType::float32: return attend_as<Float32>(call, item, next, memory);
    case DataType::bfloat16: return attend_as<BFloat16>(call, item, next, memory);
    case DataType::float16: return attend_as<Float16>(call, item, next, memory);
    case DataType::int8: return attend_int8(call, item, next, memory);
  }
}

inline AttentionKernels attention_kernels() { return {write_token, attend, merge}; }

}  // namespace OCTAVO_ISA
}  // namespace octavo
