// The likeliest token of each row, without its logits.
#pragma once

#include "../program.h"

namespace octavo {

// As `compute_logits`, but of each row no more is kept than where its highest logit is: places [num_rows], the first of
// equals, or -1 where a logit of the row is not finite. A block of logits is looked at while it lies in the cache of the thread
// that made it, and then overwritten.
void find_likeliest(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, int64_t* places, ThreadPool& threads);

}  // namespace octavo
