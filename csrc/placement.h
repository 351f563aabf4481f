// Which cores the threads of a pool run on, where other processes want the same ones.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace octavo {

// The caller of a pool is the one thread that all others wait for, between steps too. So it moves away from a core that
// another process takes, and the pool's other threads move away from the caller's: by itself the system may leave two of
// the pool's threads on one core, and the other process alone on the other one, for a tenth of a second and more. Threads
// are moved once and not bound: their affinity mask is what it was. Knows Linux; does nothing elsewhere.
class Placement {
 public:
  explicit Placement(int num_threads) : seats_(static_cast<size_t>(num_threads)) {}

  // Called by each thread now and then, between two tasks. `lost_core`: another process has just had its core.
  void look(int thread, bool lost_core);

 private:
  struct alignas(64) Seat {
    std::atomic<int> core{-1};
    std::atomic<int64_t> lost_at{0};  // microseconds
  };
  void leave_busy_core(int core, int64_t now);
  void leave_callers_core(int thread);

  std::vector<Seat> seats_;  // the caller's first
  int64_t moved_at_ = 0;     // the caller's
};

}  // namespace octavo
