#include "placement.h"

#include <sched.h>

#include <chrono>

namespace octavo {

#if defined(__linux__)
namespace {

// For so long a core counts as busy that was lost once, and the caller stays where it has moved to.
constexpr int64_t BUSY_US = 30000;

int64_t microseconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

// Moves this thread there. Its mask is the old one again when this returns.
void move_to(int core) {
  cpu_set_t allowed, target;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || !CPU_ISSET(core, &allowed)) return;
  CPU_ZERO(&target);
  CPU_SET(core, &target);
  if (sched_setaffinity(0, sizeof(target), &target) == 0) sched_setaffinity(0, sizeof(allowed), &allowed);
}

}  // namespace

void Placement::look(int thread, bool lost_core) {
  Seat& seat = seats_[static_cast<size_t>(thread)];
  const int core = sched_getcpu();
  seat.core.store(core, std::memory_order_relaxed);
  const int64_t now = lost_core ? microseconds() : 0;
  if (lost_core) seat.lost_at.store(now, std::memory_order_relaxed);
  if (thread > 0 && seats_[0].core.load(std::memory_order_relaxed) == core) leave_callers_core(thread);
  if (thread == 0 && lost_core) leave_busy_core(core, now);
}

// To the core of a thread that has not lost it lately; that one leaves it in turn.
void Placement::leave_busy_core(int core, int64_t now) {
  if (now - moved_at_ < BUSY_US) return;
  for (size_t other = 1; other < seats_.size(); ++other) {
    const int its_core = seats_[other].core.load(std::memory_order_relaxed);
    const int64_t its_loss = seats_[other].lost_at.load(std::memory_order_relaxed);
    if (its_core < 0 || its_core == core || now - its_loss < BUSY_US) continue;
    seats_[0].core.store(its_core, std::memory_order_relaxed);
    moved_at_ = now;
    return move_to(its_core);
  }
}

// To a core that none of the pool's threads has, where there is one.
void Placement::leave_callers_core(int thread) {
  cpu_set_t free;
  if (sched_getaffinity(0, sizeof(free), &free) != 0) return;
  for (const Seat& seat : seats_) {
    const int core = seat.core.load(std::memory_order_relaxed);
    if (core >= 0) CPU_CLR(core, &free);
  }
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &free)) continue;
    seats_[static_cast<size_t>(thread)].core.store(core, std::memory_order_relaxed);
    return move_to(core);
  }
}

#else

void Placement::look(int, bool) {}

#endif

}  // namespace octavo
