// The threads that run a step together, and how they wait for one another.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "placement.h"

namespace octavo {

// Who takes a phase's tasks.
enum class Taking {
  in_order,   // whoever is free, the first task first
  own_first,  // the same, but that a thread looks for the task of its own number first: rows stay in its cache
  by_caller,  // the thread that called `ThreadPool::run`
};

// Tasks that may run at the same time. What a task computes must not depend on which thread runs it, nor on their order.
struct Phase {
  int64_t num_tasks = 0;
  Taking taking = Taking::in_order;
};

// Phases, of which each begins when all tasks of the one before have ended.
class Work {
 public:
  virtual ~Work() = default;
  // The next phase: called once for each, by one thread. Returns false where there is none.
  virtual bool next(Phase& phase) = 0;
  // A task of the phase that `next` gave last. It may throw.
  virtual void run(int64_t task, int thread) = 0;
};

// Threads that sleep until there is work for them. A phase ends with its tasks, not when all threads have come: one that
// waits for its core holds up the others only where it has begun a task. So threads offer their core to other processes
// between two tasks, before the system takes it in the middle of one.
class ThreadPool {
 public:
  // The thread that calls `run` is one of `num_threads`.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }
  // Says that `run` will be called at once: threads wake meanwhile.
  void rouse();
  // Returns when all of it has run. Throws what a task throws; the phases behind that one have not begun then. Calls of
  // several threads take turns.
  void run(Work& work);
  // `task(i)` for each i below `num_tasks`.
  template <class Task>
  void for_each(int64_t num_tasks, const Task& task);

 private:
  using Clock = std::chrono::steady_clock;
  void help(int thread);
  uint64_t take_tasks(int thread);
  void begin_next(int thread);
  void run_task(int64_t task, int thread);
  void publish(uint64_t state, uint64_t untaken);
  void wait_for_change(uint64_t seen, int thread);
  void offer_core(int thread);
  void sleep(uint64_t seen);

  const int num_threads_;
  const int process_;  // that has the threads: a fork of it has none
  std::vector<std::thread> threads_;
  std::mutex turn_;
  Placement placement_;

  // Of the run in progress. Whoever holds a task, or begins a phase, may read these.
  Work* work_ = nullptr;
  Phase phase_;
  std::exception_ptr error_;
  std::atomic<bool> has_failed_{false};

  // The phase's number, and the tasks that nobody has taken: one word, so that a thread that is late takes a task of the
  // phase that is there or none.
  alignas(64) std::atomic<uint64_t> tickets_{0};
  alignas(64) std::atomic<int64_t> num_unfinished_{0};
  alignas(64) std::atomic<int> num_sleeping_{0};
  std::mutex sleeping_;
  std::unique_ptr<std::condition_variable> bell_ = std::make_unique<std::condition_variable>();
  std::atomic<bool> is_closing_{false};
};

template <class Task>
void ThreadPool::for_each(int64_t num_tasks, const Task& task) {
  struct OnePhase final : Work {
    OnePhase(int64_t num, const Task& each) : num_tasks(num), task(each) {}
    bool next(Phase& phase) override {
      phase = {num_tasks, Taking::in_order};
      return num_phases++ == 0;
    }
    void run(int64_t i, int) override { task(i); }
    int64_t num_tasks;
    const Task& task;
    int num_phases = 0;
  } work(num_tasks, task);
  run(work);
}

}  // namespace octavo
