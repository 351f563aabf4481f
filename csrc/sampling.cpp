#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>

namespace octavo {
namespace {

// Rows that share the memory of a task.
constexpr int64_t ROWS_A_TASK = 4;
// Below the lowest weight that is not 0.
constexpr float POSITIVE = std::numeric_limits<float>::min();
// Of a bound that must not pass what it bounds by rounding.
constexpr double BELOW = 1 - 1e-6;

// Memory for one row at a time.
struct Scratch {
  explicit Scratch(int64_t vocab_size)
      : num_weights(round_up(vocab_size, LANES)),
        num_maxima(round_up(vocab_size, VECTORS_A_MAXIMUM * LANES) / VECTORS_A_MAXIMUM),
        memory(new float[static_cast<size_t>(2 * num_weights + num_maxima)]) {}
  float* weights() const { return memory.get(); }
  float* kept() const { return weights() + num_weights; }
  float* maxima() const { return kept() + num_weights; }

  int64_t num_weights, num_maxima;
  std::unique_ptr<float[]> memory;
};

double sum_of(const float* begin, const float* end) { return std::accumulate(begin, end, 0.0); }

// The least of the `k` highest values; the values are put in another order.
float least_of_highest(float* values, int64_t count, int64_t k) {
  std::nth_element(values, values + k - 1, values + count, std::greater<float>());
  return values[k - 1];
}

// The weight at which the sum of all that are at least as high reaches `mass`, which is above 0; the lowest where it never
// does. The weights are put in another order.
float nucleus_floor(float* begin, float* end, double mass) {
  float floor = 1;
  while (begin < end) {
    const float a = *begin, b = begin[(end - begin) / 2], c = end[-1];
    const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    float* const equal = std::partition(begin, end, [pivot](float weight) { return weight > pivot; });
    const double above = sum_of(begin, equal);
    if (above >= mass) {
      end = equal;
      continue;
    }
    begin = std::partition(equal, end, [pivot](float weight) { return weight == pivot; });
    floor = pivot;
    mass -= above + static_cast<double>(begin - equal) * static_cast<double>(pivot);
    if (mass <= 0) break;
  }
  return floor;
}

struct Cutoffs {
  int64_t top_k;
  double top_p, min_p;
};

// The lowest weight that is kept: top-k, of those a nucleus, of those min-p, as truncation.py says. Only the weights that a
// bound leaves are looked at one by one; the highest weight is 1, `total` the sum of all.
float floor_of(const KernelTable& kernels, const Scratch& scratch, int64_t vocab_size, double total, const Cutoffs& cutoffs) {
  const bool is_counted = 0 < cutoffs.top_k && cutoffs.top_k < vocab_size;
  const float by_share = std::max(POSITIVE, static_cast<float>(cutoffs.min_p));
  if (!is_counted && cutoffs.top_p >= 1) return by_share;
  float bound = POSITIVE;
  if (!is_counted) {
    // All below it weigh less together than what a nucleus leaves out.
    bound = std::max(bound, static_cast<float>((1 - cutoffs.top_p) * total / static_cast<double>(vocab_size) * BELOW));
  } else if (cutoffs.top_k <= scratch.num_maxima) {
    // As many weights as there are higher maxima are above it.
    bound = std::max(bound, least_of_highest(scratch.maxima(), scratch.num_maxima, cutoffs.top_k));
  }
  float* const kept = scratch.kept();
  float* end = kept + kernels.sampling.keep_at_least(scratch.weights(), scratch.num_weights, bound, kept);
  float floor = by_share;
  if (is_counted && cutoffs.top_k <= end - kept) {
    const float least = least_of_highest(kept, end - kept, cutoffs.top_k);
    end = std::partition(kept, end, [least](float weight) { return weight >= least; });
    floor = std::max(floor, least);
  }
  if (cutoffs.top_p < 1) {
    const double mass = is_counted ? sum_of(kept, end) : total;
    floor = std::max(floor, nucleus_floor(kept, end, cutoffs.top_p * mass));
  }
  return floor;
}

int64_t draw_token(const KernelTable& kernels, const float* logits, int64_t vocab_size, float temperature,
                   const Cutoffs& cutoffs, const uint32_t* key, const Scratch& scratch) {
  const float highest = kernels.sampling.highest_logit(logits, vocab_size);
  if (!std::isfinite(highest)) return -1;
  const double total =
      kernels.sampling.weigh(logits, vocab_size, highest, temperature, scratch.weights(), scratch.maxima());
  const float floor = floor_of(kernels, scratch, vocab_size, total, cutoffs);
  return kernels.sampling.race(scratch.weights(), scratch.num_weights, floor, key);
}

}  // namespace

void draw_tokens(const KernelTable& kernels, ThreadPool& threads, const float* logits, int64_t vocab_size,
                 const Draws& draws, int64_t* token_ids) {
  const int64_t num_tasks = (draws.num_rows + ROWS_A_TASK - 1) / ROWS_A_TASK;
  threads.for_each(num_tasks, [&](int64_t task) {
    const Scratch scratch(vocab_size);
    const int64_t end = std::min(draws.num_rows, (task + 1) * ROWS_A_TASK);
    for (int64_t i = task * ROWS_A_TASK; i < end; ++i) {
      token_ids[i] = draw_token(kernels, logits + draws.rows[i] * vocab_size, vocab_size, draws.temperature[i],
                                {draws.top_k[i], draws.top_p[i], draws.min_p[i]}, draws.keys + 2 * i, scratch);
    }
  });
}

}  // namespace octavo
