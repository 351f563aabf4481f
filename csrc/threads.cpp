#include "threads.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

using std::chrono::microseconds;

// A word of tickets: the phase's number, its state, and the tasks that are left, as a count or as a set.
constexpr int STATE_SHIFT = 32, NUMBER_SHIFT = 34;
constexpr int64_t LARGEST_SET = 32;

enum State : uint64_t { COUNTED, IN_SET, CALLERS_TURN, OVER };

State state_of(uint64_t word) { return static_cast<State>(word >> STATE_SHIFT & 3); }

// A wait is a spin for about as long as it takes to wake a thread, and then sleep.
constexpr microseconds SPINNING{100};
// A thread offers its core so often: often enough to do so before the system takes the core, after some milliseconds, and
// seldom enough to have most of its share of the core.
constexpr microseconds OFFER{1000};
// A core that does not come back for so long was another process's.
constexpr microseconds LOSS{200};
// Turns of a loop, and tasks, between two looks at the clock.
constexpr int SPINS_A_LOOK = 16, TASKS_A_LOOK = 4;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Threads of the pool take no signals: those are for the program's own.
class SignalsHeld {
 public:
  SignalsHeld() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsHeld() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

using Clock = std::chrono::steady_clock;

// When this thread has last offered its core to other processes, or slept.
thread_local Clock::time_point last_offer;

bool should_offer() { return Clock::now() - last_offer >= OFFER; }


}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), process_(getpid()), placement_(num_threads) {
  const SignalsHeld held;
  for (int thread = 1; thread < num_threads; ++thread) {
    threads_.emplace_back([this, thread] { help(thread); });
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != process_) {
    for (std::thread& thread : threads_) thread.detach();
    bell_.release();  // to destroy it would wait for threads that slept when the process was forked
    return;
  }
  is_closing_.store(true);
  publish(OVER, 0);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::rouse() {
  if (num_sleeping_.load() == 0) return;
  {
    const std::lock_guard<std::mutex> locked(sleeping_);
    num_sleeping_.store(0);
  }
  bell_->notify_all();
}

void ThreadPool::run(Work& work) {
  const std::lock_guard<std::mutex> turn(turn_);
  placement_.look(0, false);
  work_ = &work;
  has_failed_.store(false, std::memory_order_relaxed);
  begin_next(0);
  for (;;) {
    const uint64_t seen = take_tasks(0);
    if (state_of(seen) == OVER) break;
    if (state_of(seen) == CALLERS_TURN) {
      for (int64_t task = 0; task < phase_.num_tasks; ++task) run_task(task, 0);
      begin_next(0);
    } else {
      wait_for_change(seen, 0);
    }
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::help(int thread) {
  for (;;) {
    const uint64_t seen = take_tasks(thread);
    if (is_closing_.load(std::memory_order_relaxed)) return;
    wait_for_change(seen, thread);
  }
}

// Runs tasks while there are some. Returns the word of tickets that had none left. Those that have run are told once, when
// no more are left or this thread may lose its core.
uint64_t ThreadPool::take_tasks(int thread) {
  uint64_t seen = tickets_.load(std::memory_order_acquire);
  for (int64_t num_run = 0;;) {
    const auto untaken = static_cast<uint32_t>(seen);
    const bool offers = num_run % TASKS_A_LOOK == TASKS_A_LOOK - 1 && should_offer();
    if (num_run > 0 && (untaken == 0 || offers)) {
      if (num_unfinished_.fetch_sub(num_run, std::memory_order_acq_rel) == num_run) begin_next(thread);
      num_run = 0;
      if (offers) offer_core(thread);
      seen = tickets_.load(std::memory_order_acquire);
      continue;
    }
    if (untaken == 0) return seen;
    const bool is_set = state_of(seen) == IN_SET;
    const bool has_own = is_set && thread < LARGEST_SET && untaken >> thread & 1;
    const int first = has_own ? thread : __builtin_ctz(untaken);
    const uint64_t taken = is_set ? uint64_t{1} << first : 1;
    if (!tickets_.compare_exchange_weak(seen, seen - taken, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    run_task(is_set ? first : phase_.num_tasks - untaken, thread);
    ++num_run;
    seen = tickets_.load(std::memory_order_acquire);
  }
}

// Called by the one thread that knows the phase before to be over. A phase of one task runs here: nobody could help.
void ThreadPool::begin_next(int thread) {
  while (!has_failed_.load(std::memory_order_relaxed) && work_->next(phase_)) {
    if (phase_.taking == Taking::by_caller && thread != 0) return publish(CALLERS_TURN, 0);
    if (phase_.num_tasks > 1 && phase_.taking != Taking::by_caller) {
      num_unfinished_.store(phase_.num_tasks, std::memory_order_relaxed);
      if (phase_.taking == Taking::own_first && phase_.num_tasks <= LARGEST_SET) {
        return publish(IN_SET, (uint64_t{1} << phase_.num_tasks) - 1);
      }
      return publish(COUNTED, static_cast<uint64_t>(phase_.num_tasks));
    }
    for (int64_t task = 0; task < phase_.num_tasks; ++task) run_task(task, thread);
  }
  publish(OVER, 0);
}

// An exception must not leave a thread of the pool: the caller throws it when the phase is over.
void ThreadPool::run_task(int64_t task, int thread) {
  if (has_failed_.load(std::memory_order_relaxed)) return;
  try {
    work_->run(task, thread);
  } catch (...) {
    if (!has_failed_.exchange(true)) error_ = std::current_exception();
  }
}

void ThreadPool::publish(uint64_t state, uint64_t untaken) {
  const uint64_t number = (tickets_.load(std::memory_order_relaxed) >> NUMBER_SHIFT) + 1;
  tickets_.store(number << NUMBER_SHIFT | state << STATE_SHIFT | untaken);
  rouse();
}

void ThreadPool::wait_for_change(uint64_t seen, int thread) {
  Clock::time_point until;
  for (bool has_looked = false;; has_looked = true) {
    for (int spin = 0; spin < SPINS_A_LOOK; ++spin) {
      if (tickets_.load(std::memory_order_acquire) != seen) return;
      pause();
    }
    if (!has_looked) until = Clock::now() + SPINNING;
    if (Clock::now() >= until) break;
    if (should_offer()) offer_core(thread);
  }
  sleep(seen);
  last_offer = Clock::now();
  placement_.look(thread, false);
}

// To any process that waits for it. It comes back at once where none does.
void ThreadPool::offer_core(int thread) {
  const Clock::time_point before = Clock::now();
  sched_yield();
  last_offer = Clock::now();
  placement_.look(thread, last_offer - before > LOSS);
}

// Sequentially consistent beside `publish`: either this thread sees the new word, or the other one that this one sleeps.
void ThreadPool::sleep(uint64_t seen) {
  std::unique_lock<std::mutex> locked(sleeping_);
  num_sleeping_.fetch_add(1);
  if (tickets_.load() == seen) bell_->wait(locked);
}

}  // namespace octavo
