// A feed-forward layer of experts (Shazeer et al., Outrageously Large Neural Networks, 2017): each token goes through the
// few that score highest for it, and their results are added, weighted by the softmax of their scores.
#include <cmath>
#include <stdexcept>

#include "../operation.h"
#include "../product_cut.h"
#include "activation.h"
#include "linear.h"
#include "row_op.h"

namespace octavo {
namespace {

struct Experts {
  std::vector<SharedWeight> gate_up;  // of each expert, [2 * inner, hidden]
  std::vector<SharedWeight> down;     // [hidden, inner]
  int64_t num_chosen = 0;             // a token's
  Activation activation = Activation::silu;
};

// What the operation works in: rows of a token are its chosen experts'.
struct ExpertBuffers {
  Buffer* hidden;     // [num_tokens, hidden], in the form that products with gate_up take
  Buffer* scores;     // [num_tokens, num_experts]
  Buffer* gate_up;    // [num_tokens * num_chosen, 2 * inner]
  Buffer* activated;  // [num_tokens * num_chosen, inner], in the form that products with down take
  Buffer* results;    // [num_tokens * num_chosen, hidden]
  Buffer* out;        // [num_tokens, hidden]
};

// One token's way through one expert.
struct Choice {
  int64_t expert;
  float weight;
  int64_t place;  // its row in the buffers that are grouped by expert
};

// The rows of one expert: neighbours in the grouped buffers.
struct Group {
  size_t expert;
  int64_t first_row;
  Cut up, down;
  int64_t end_up, end_down;  // tasks of this group and those before it
};

enum Phase { ROUTE, GROUP, GATE_UP, ACTIVATE, DOWN, COMBINE, NUM_PHASES };

class ExpertsOp final : public Op {
 public:
  ExpertsOp(const KernelTable& kernels, Experts experts, const ExpertBuffers& buffers)
      : kernels_(kernels), experts_(std::move(experts)), buffers_(buffers) {}
  const char* name() const override { return "experts"; }

  void prepare(const Step& step, int num_threads) override {
    num_tokens_ = step.num_tokens;
    num_choices_ = num_tokens_ * experts_.num_chosen;
    num_threads_ = num_threads;
    choices_.resize(static_cast<size_t>(num_choices_));
    tokens_.resize(static_cast<size_t>(num_choices_));
  }

  int num_phases() const override { return NUM_PHASES; }
  Taking taking(int phase) const override {
    const bool is_by_row = phase == ROUTE || phase == ACTIVATE || phase == COMBINE;
    return is_by_row ? Taking::own_first : Taking::in_order;
  }
  int64_t num_tasks(int phase) const override {
    switch (phase) {
      case GROUP: return 1;
      case GATE_UP: return groups_.back().end_up;
      case DOWN: return groups_.back().end_down;
      case ACTIVATE: return std::min<int64_t>(num_choices_, num_threads_);
      default: return std::min<int64_t>(num_tokens_, num_threads_);
    }
  }

  void run(int phase, int64_t task, int) override {
    switch (phase) {
      case ROUTE: return for_rows(ROUTE, task, num_tokens_, &ExpertsOp::route);
      case GROUP: return group();
      case GATE_UP: return multiply_up(task);
      case ACTIVATE: return for_rows(ACTIVATE, task, num_choices_, &ExpertsOp::activate);
      case DOWN: return multiply_down(task);
      default: return for_rows(COMBINE, task, num_tokens_, &ExpertsOp::combine);
    }
  }

 private:
  void for_rows(int phase, int64_t task, int64_t num_rows, void (ExpertsOp::*run_row)(int64_t)) {
    const int64_t tasks = num_tasks(phase);
    for (int64_t row = num_rows * task / tasks; row < num_rows * (task + 1) / tasks; ++row) (this->*run_row)(row);
  }

  Choice* choices(int64_t token) { return choices_.data() + token * experts_.num_chosen; }

  // The highest scores, the first among equals, and the softmax over them.
  void route(int64_t token) {
    const int64_t num_experts = buffers_.scores->width;
    const float* scores = buffers_.scores->data + token * num_experts;
    Choice* chosen = choices(token);
    float total = 0;
    for (int64_t i = 0; i < experts_.num_chosen; ++i) {
      int64_t best = -1;
      for (int64_t expert = 0; expert < num_experts; ++expert) {
        bool is_taken = false;
        for (int64_t j = 0; j < i; ++j) is_taken |= chosen[j].expert == expert;
        if (!is_taken && (best < 0 || scores[expert] > scores[best])) best = expert;
      }
      chosen[i].expert = best;
      chosen[i].weight = std::exp(scores[best] - scores[chosen[0].expert]);
      total += chosen[i].weight;
    }
    for (int64_t i = 0; i < experts_.num_chosen; ++i) chosen[i].weight /= total;
  }

  // Gives each choice its row, so that an expert's rows are neighbours, and cuts the products.
  void group() {
    std::vector<int64_t> next(experts_.gate_up.size() + 1, 0);
    for (const Choice& choice : choices_) ++next[static_cast<size_t>(choice.expert) + 1];
    int64_t num_active = 0;
    for (size_t expert = 0; expert + 1 < next.size(); ++expert) {
      num_active += next[expert + 1] > 0;
      next[expert + 1] += next[expert];
    }
    const int64_t tasks_a_thread = divide_up(TASKS_A_THREAD, num_active);
    groups_.clear();
    int64_t end_up = 0, end_down = 0;
    for (size_t expert = 0; expert + 1 < next.size(); ++expert) {
      const int64_t num_rows = next[expert + 1] - next[expert];
      if (num_rows == 0) continue;
      const Cut up(experts_.gate_up[expert]->packed(), *buffers_.hidden, num_rows, num_threads_, tasks_a_thread);
      const Cut down(experts_.down[expert]->packed(), *buffers_.activated, num_rows, num_threads_, tasks_a_thread);
      groups_.push_back({expert, next[expert], up, down, end_up += up.num_tasks(), end_down += down.num_tasks()});
    }
    for (int64_t i = 0; i < num_choices_; ++i) {
      Choice& choice = choices_[static_cast<size_t>(i)];
      choice.place = next[static_cast<size_t>(choice.expert)]++;
      tokens_[static_cast<size_t>(choice.place)] = i / experts_.num_chosen;
    }
  }

  void multiply_up(int64_t task) {
    const Group& group = *std::upper_bound(groups_.begin(), groups_.end(), task,
                                           [](int64_t t, const Group& g) { return t < g.end_up; });
    Product product = bind_product(experts_.gate_up[group.expert]->packed(), *buffers_.hidden);
    product.rows = tokens_.data() + group.first_row;
    product.out_stride = buffers_.gate_up->width;
    product.out = buffers_.gate_up->data + group.first_row * product.out_stride;
    group.up.run(kernels_, product, task - (group.end_up - group.up.num_tasks()));
  }

  void activate(int64_t row) {
    const int64_t inner = buffers_.activated->width;
    const float* gate = buffers_.gate_up->data + row * 2 * inner;
    kernels_.activation(experts_.activation, gate, gate + inner, buffers_.activated->data + row * inner, inner);
    convert_row(kernels_, *buffers_.activated, row);
  }

  void multiply_down(int64_t task) {
    const Group& group = *std::upper_bound(groups_.begin(), groups_.end(), task,
                                           [](int64_t t, const Group& g) { return t < g.end_down; });
    Product product = bind_product(experts_.down[group.expert]->packed(), *buffers_.activated, group.first_row);
    product.out_stride = buffers_.results->width;
    product.out = buffers_.results->data + group.first_row * product.out_stride;
    group.down.run(kernels_, product, task - (group.end_down - group.down.num_tasks()));
  }

  void combine(int64_t token) {
    const int64_t width = buffers_.out->width;
    float* out = buffers_.out->data + token * width;
    std::fill(out, out + width, 0.0f);
    for (int64_t i = 0; i < experts_.num_chosen; ++i) {
      const Choice& choice = choices(token)[i];
      const float* result = buffers_.results->data + choice.place * width;
      for (int64_t j = 0; j < width; ++j) out[j] += choice.weight * result[j];
    }
    convert_row(kernels_, *buffers_.out, token);
  }

  const KernelTable& kernels_;
  Experts experts_;
  ExpertBuffers buffers_;
  int64_t num_tokens_ = 0, num_choices_ = 0;
  int num_threads_ = 1;
  std::vector<Choice> choices_;   // [num_tokens, num_chosen]
  std::vector<int64_t> tokens_;   // of each grouped row
  std::vector<Group> groups_;
};

bool fits(const Experts& experts, const ExpertBuffers& buffers) {
  const auto num_experts = static_cast<int64_t>(experts.gate_up.size());
  const int64_t inner = buffers.activated->width, hidden = buffers.hidden->width;
  bool fit = buffers.scores->width == num_experts && experts.down.size() == experts.gate_up.size() &&
             0 < experts.num_chosen && experts.num_chosen <= num_experts && buffers.gate_up->width == 2 * inner &&
             buffers.results->width == hidden && buffers.out->width == hidden;
  for (const SharedWeight& weight : experts.gate_up) {
    fit = fit && weight->packed().num_inputs == hidden && weight->packed().num_outputs == 2 * inner;
  }
  for (const SharedWeight& weight : experts.down) {
    fit = fit && weight->packed().num_inputs == inner && weight->packed().num_outputs == hidden;
  }
  return fit;
}

// The scores: in float32 the router reads what any other product of `hidden` can be beside.
Buffer* add_router(const Call& call, Buffer* hidden) {
  const auto router = call.arguments.get<Floats>("router");
  const PlainWeight plain{DataType::float32, router.num_rows, router.num_columns, router.data.get(), nullptr};
  Buffer* scores = call.program.add_buffer(router.num_rows);
  add_product(call.program, call.kernels, {std::make_shared<Weight>(plain, call.program.threads())}, {}, hidden, scores);
  return scores;
}

void add_experts(const Call& call) {
  const Arguments& given = call.arguments;
  Experts experts{given.get<std::vector<SharedWeight>>("gate_up"), given.get<std::vector<SharedWeight>>("down"),
                  given.get<int64_t>("num_chosen"), activation_named(given.get<std::string>("kind"))};
  if (experts.gate_up.empty() || experts.down.empty()) throw std::invalid_argument("a layer of experts needs some");
  const PackedWeight &up = experts.gate_up[0]->packed(), &down = experts.down[0]->packed();
  const auto hidden = given.get<Buffer*>("hidden");
  const ExpertBuffers buffers{hidden,
                              add_router(call, hidden),
                              call.program.add_buffer(up.num_outputs, experts.num_chosen),
                              call.program.add_buffer(down.num_inputs, experts.num_chosen),
                              call.program.add_buffer(down.num_outputs, experts.num_chosen),
                              call.results.at(0)};
  if (!fits(experts, buffers)) throw std::invalid_argument("the experts' weights do not fit their buffers");
  for (const SharedWeight& weight : experts.gate_up) buffers.hidden->take_form(call.kernels.form_for(weight->packed()));
  for (const SharedWeight& weight : experts.down) buffers.activated->take_form(call.kernels.form_for(weight->packed()));
  call.program.add(std::make_unique<ExpertsOp>(call.kernels, std::move(experts), buffers),
                   {buffers.hidden, buffers.scores, buffers.gate_up, buffers.activated, buffers.results, buffers.out});
}

const Operation experts("experts", add_experts);

}  // namespace
}  // namespace octavo
