// A program: the operations of one forward pass, bound once to their weights and buffers, and run in one call a step.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <typeindex>
#include <vector>

#include "kernels.h"

namespace octavo {

// What all operations of a step share: `execution.ModelRunner`'s flat batch (kernels/batch.py, RaggedBatch).
struct Step {
  uint64_t serial = 0;                    // tells a program's steps apart
  int64_t num_tokens = 0;
  int64_t num_rows = 0;
  int64_t num_groups = 0;                 // of layers: each has its own slots and block tables
  int64_t num_tables = 0;                 // rows of block_tables, of which a step has some
  int64_t max_blocks = 0;                 // columns of block_tables
  const int64_t* token_ids = nullptr;     // [num_tokens]
  const int64_t* positions = nullptr;     // [num_tokens]
  const int64_t* slots = nullptr;         // [num_groups, num_tokens]
  const int64_t* query_starts = nullptr;  // [num_rows + 1]
  const int64_t* context_lens = nullptr;  // [num_rows]
  const int64_t* tables = nullptr;        // [num_rows]: each row's place in block_tables
  const int64_t* block_tables = nullptr;  // [num_groups, num_tables, max_blocks]

  const int64_t* slots_of(int64_t group) const { return slots + group * num_tokens; }
  const int64_t* block_tables_of(int64_t group) const { return block_tables + group * num_tables * max_blocks; }
};

// Activations of a step, [num_tokens * rows_a_token, width] float32, and beside it the form that the products reading it take.
// The memory belongs to the program and moves when it grows: read the pointers when running, not when binding.
struct Buffer {
  int64_t width = 0;
  int64_t rows_a_token = 1;
  float* data = nullptr;
  Form form = Form::float32;
  int64_t values_stride = 0;    // bytes of a row of values: whole groups, zeros at its end
  uint8_t* values = nullptr;    // of any other form; grouped: StepScales and int8, step by step
  float* scales = nullptr;      // int8: [rows, num_groups], value = scale * int8
  int32_t* starts = nullptr;    // int8: [rows, num_groups], what a group's integer sums start at

  int64_t num_groups() const { return (width + GROUP - 1) / GROUP; }
  int64_t num_steps() const { return (width + STEP - 1) / STEP; }
  bool is_grouped() const { return form == Form::grouped || form == Form::grouped_split; }

  // Ask for a form. Throws std::invalid_argument where another one was asked for.
  void take_form(Form wanted);
};

// One operation. Its work is cut into phases, with a barrier after each; a phase into tasks, which threads take one by
// one. What a task computes must not depend on which thread runs it, nor on how the work was cut.
class Op {
 public:
  virtual ~Op() = default;
  virtual const char* name() const = 0;
  // Called on the program's thread before the step runs.
  virtual void prepare(const Step& step, int num_threads) = 0;
  virtual int num_phases() const { return 1; }
  // Whether each thread has a task of its own in a phase, which it takes first: rows stay in its cache.
  virtual bool is_by_thread(int /*phase*/) const { return false; }
  // A phase of one task runs on the thread that called the program, and may throw.
  virtual int64_t num_tasks(int phase) const = 0;
  virtual void run(int phase, int64_t task, int thread) = 0;
};

// Holds threads until all have come. Waiting threads spin for some microseconds, then give their core away, so that a
// core taken by another process delays a step instead of stopping it.
class Barrier {
 public:
  void reset(int num_threads);
  void wait();

 private:
  int num_threads_ = 1;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

class Program {
 public:
  static constexpr size_t NO_PHASE = std::numeric_limits<size_t>::max();

  explicit Program(int num_threads);

  // A buffer that lives from the first operation that is given it to the last. Buffers whose lives do not overlap share
  // memory. The pointer stays valid as long as the program.
  Buffer* add_buffer(int64_t width, int64_t rows_a_token = 1);
  // `buffers`: all that the operation reads or writes.
  void add(std::unique_ptr<Op> op, const std::vector<Buffer*>& buffers);
  // Keep a buffer's content after the program has run.
  void keep(Buffer* buffer);
  // Say that the program needs the tables of so many layer groups, at the least.
  void need_layer_groups(int64_t count) { num_layer_groups_ = std::max(num_layer_groups_, count); }
  int64_t num_layer_groups() const { return num_layer_groups_; }
  // What operations of one kind share, made when the first one asks for it.
  template <class T>
  std::shared_ptr<T> shared() {
    std::shared_ptr<void>& found = shared_[std::type_index(typeid(T))];
    if (!found) found = std::make_shared<T>();
    return std::static_pointer_cast<T>(found);
  }

  // Numbers the step and runs it. Throws what an operation throws; what follows that operation has not run then.
  void run(Step& step);

  void set_profiling(bool on);
  // Seconds by operation name since profiling was switched on, with the waiting for other threads.
  std::vector<std::pair<std::string, double>> profile() const;

 private:
  struct Life {
    int first = -1;
    int last = -1;
    int place = -1;
  };
  struct Place {
    int64_t row_bytes = 0;
    std::unique_ptr<uint8_t[]> memory;
  };
  void assign_places();
  void make_room(int64_t num_tokens);
  void run_ops(int thread);
  void run_alone(Op& op, int phase, size_t counter);

  int num_threads_;
  int64_t num_layer_groups_ = 0;
  std::map<std::type_index, std::shared_ptr<void>> shared_;
  uint64_t num_steps_ = 0;
  int64_t capacity_ = 0;  // tokens
  std::vector<std::unique_ptr<Op>> ops_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Life> lives_;
  std::vector<Place> places_;
  Barrier barrier_;
  struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
  };
  std::vector<Counter> counters_;  // one a phase
  std::exception_ptr error_;             // what a phase threw…
  std::atomic<size_t> failed_phase_{0};  // …and which one of the program's, after which threads leave
  bool profiling_ = false;
  std::vector<double> seconds_;  // by op
};

}  // namespace octavo
