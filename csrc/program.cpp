#include "program.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <stdexcept>
#include <utility>

namespace octavo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t ALIGNMENT = 64;
constexpr int64_t STEP_SCALES_BYTES = sizeof(StepScales), PLAIN_STEP_BYTES = sizeof(PlainStep);

int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Of a row of a form other than float32: whole groups, or steps.
int64_t bytes_of_values(const Buffer& buffer) {
  switch (buffer.form) {
    case Form::int8: return buffer.num_groups() * GROUP;
    case Form::int8_split: return buffer.num_groups() * GROUP * 2;
    case Form::grouped: return buffer.num_steps() * (STEP_SCALES_BYTES + STEP);
    case Form::grouped_split: return buffer.num_steps() * (STEP_SCALES_BYTES + PLAIN_STEP_BYTES + STEP * 2);
    default: return buffer.width * 2;
  }
}

// Of a row's form beside its float32 values.
int64_t form_bytes(const Buffer& buffer) {
  if (buffer.form == Form::float32) return 0;
  return buffer.values_stride + (buffer.is_grouped() ? 0 : buffer.num_groups() * 8);
}

// The bytes that a buffer takes for each token; its parts follow one another, each a token's share of an array.
int64_t row_bytes(const Buffer& buffer) {
  return buffer.rows_a_token * (buffer.width * 4 + form_bytes(buffer));
}

}  // namespace

void Buffer::take_form(Form wanted) {
  if (wanted == Form::float32 || wanted == form) return;
  if (form != Form::float32) throw std::invalid_argument("products of unlike weights read one buffer");
  form = wanted;
  values_stride = aligned(bytes_of_values(*this));
}

Buffer* Program::add_buffer(int64_t width, int64_t rows_a_token) {
  buffers_.push_back(std::make_unique<Buffer>());
  lives_.emplace_back();
  Buffer* buffer = buffers_.back().get();
  buffer->width = width;
  buffer->rows_a_token = rows_a_token;
  return buffer;
}

void Program::add(std::unique_ptr<Op> op, const std::vector<Buffer*>& buffers) {
  const int index = static_cast<int>(ops_.size());
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (std::find(buffers.begin(), buffers.end(), buffers_[i].get()) == buffers.end()) continue;
    if (lives_[i].first < 0) lives_[i].first = index;
    lives_[i].last = std::max(lives_[i].last, index);
  }
  ops_.push_back(std::move(op));
  capacity_ = 0;
}

void Program::keep(Buffer* buffer) {
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (buffers_[i].get() == buffer) lives_[i].last = static_cast<int>(ops_.size()) + (1 << 20);
  }
}

// In order of their births, each buffer takes the place, among those whose buffer has died, that fits it best.
void Program::assign_places() {
  places_.clear();
  std::vector<int> free_after;
  std::vector<size_t> order(buffers_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return lives_[a].first < lives_[b].first; });
  for (size_t i : order) {
    const int64_t needed = row_bytes(*buffers_[i]);
    int best = -1;
    for (size_t place = 0; place < places_.size(); ++place) {
      if (free_after[place] >= lives_[i].first) continue;
      const auto misfit = [&](size_t p) { return std::abs(places_[p].row_bytes - needed); };
      if (best < 0 || misfit(place) < misfit(static_cast<size_t>(best))) best = static_cast<int>(place);
    }
    if (best < 0) {
      best = static_cast<int>(places_.size());
      places_.emplace_back();
      free_after.push_back(-1);
    }
    lives_[i].place = best;
    Place& place = places_[static_cast<size_t>(best)];
    place.row_bytes = std::max(place.row_bytes, needed);
    free_after[static_cast<size_t>(best)] = lives_[i].last;
  }
}

void Program::make_room(int64_t num_tokens) {
  if (num_tokens <= capacity_) return;
  assign_places();
  // Doubled as it grows, so that a rising load moves the buffers a few times only.
  capacity_ = std::max(num_tokens, std::min<int64_t>(2 * capacity_, num_tokens + 1024));
  constexpr int64_t parts = 4;
  for (Place& place : places_) {
    place.memory.reset();
    place.memory.reset(new uint8_t[static_cast<size_t>(place.row_bytes * capacity_ + (parts + 1) * ALIGNMENT)]);
  }
  for (size_t i = 0; i < buffers_.size(); ++i) {
    Buffer& buffer = *buffers_[i];
    if (lives_[i].place < 0) continue;
    const auto start = reinterpret_cast<uintptr_t>(places_[static_cast<size_t>(lives_[i].place)].memory.get());
    uint8_t* next = reinterpret_cast<uint8_t*>(aligned(static_cast<int64_t>(start)));
    const auto take = [&](int64_t bytes) {
      uint8_t* taken = next;
      next += aligned(bytes);
      return taken;
    };
    const int64_t num_rows = capacity_ * buffer.rows_a_token;
    buffer.data = reinterpret_cast<float*>(take(buffer.width * 4 * num_rows));
    if (buffer.form == Form::float32) continue;
    buffer.values = take(buffer.values_stride * num_rows);
    if (buffer.is_grouped()) continue;
    buffer.scales = reinterpret_cast<float*>(take(4 * buffer.num_groups() * num_rows));
    buffer.starts = reinterpret_cast<int32_t*>(take(4 * buffer.num_groups() * num_rows));
  }
}

void Program::run(Step& step) {
  threads_.rouse();
  step.serial = ++num_steps_;
  make_room(step.num_tokens);
  for (auto& op : ops_) op->prepare(step, threads_.num_threads());
  seconds_.resize(ops_.size(), 0.0);
  op_ = 0;
  op_phase_ = -1;
  if (profiling_) op_began_ = Clock::now();
  threads_.run(*this);
}

bool Program::next(Phase& phase) {
  for (++op_phase_; op_ < ops_.size(); ++op_, op_phase_ = 0) {
    const Op& op = *ops_[op_];
    for (; op_phase_ < op.num_phases(); ++op_phase_) {
      phase = {op.num_tasks(op_phase_), op.taking(op_phase_)};
      if (phase.num_tasks > 0) return true;
    }
    if (profiling_) {
      const Clock::time_point now = Clock::now();
      seconds_[op_] += std::chrono::duration<double>(now - op_began_).count();
      op_began_ = now;
    }
  }
  return false;
}

void Program::run(int64_t task, int thread) { ops_[op_]->run(op_phase_, task, thread); }

void Program::set_profiling(bool on) {
  profiling_ = on;
  seconds_.assign(ops_.size(), 0.0);
}

std::vector<std::pair<std::string, double>> Program::profile() const {
  std::map<std::string, double> by_name;
  for (size_t i = 0; i < ops_.size() && i < seconds_.size(); ++i) by_name[ops_[i]->name()] += seconds_[i];
  return {by_name.begin(), by_name.end()};
}

}  // namespace octavo
