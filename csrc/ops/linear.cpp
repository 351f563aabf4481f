#include "linear.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "../product_cut.h"

namespace octavo {
namespace {

// Products of one buffer with some weights, whose outputs lie side by side. The tasks are those of all of them.
class ProductOp final : public Op {
 public:
  // `in` must be asked for the form that the weights' products take.
  ProductOp(const KernelTable& kernels, std::vector<SharedWeight> weights, Floats bias, Buffer* in, Buffer* out)
      : kernels_(kernels), weights_(std::move(weights)), bias_(std::move(bias.data)), in_(in), out_(out) {}
  const char* name() const override { return "product"; }

  void prepare(const Step& step, int num_threads) override {
    const int64_t tasks_a_thread = divide_up(TASKS_A_THREAD, static_cast<int64_t>(weights_.size()));
    parts_.clear();
    num_tasks_ = 0;
    int64_t first_output = 0;
    for (const SharedWeight& weight : weights_) {
      const Cut cut(weight->packed(), *in_, step.num_tokens, num_threads, tasks_a_thread);
      Product product = bind_product(weight->packed(), *in_);
      product.bias = bias_ ? bias_.get() + first_output : nullptr;
      product.out = out_->data + first_output;
      product.out_stride = out_->width;
      parts_.push_back({cut, product, num_tasks_});
      num_tasks_ += cut.num_tasks();
      first_output += weight->packed().num_outputs;
    }
  }
  int64_t num_tasks(int) const override { return num_tasks_; }
  void run(int, int64_t task, int) override {
    const Part& part = *std::prev(std::upper_bound(parts_.begin(), parts_.end(), task,
                                                   [](int64_t t, const Part& other) { return t < other.first_task; }));
    part.cut.run(kernels_, part.product, task - part.first_task);
  }

 private:
  // One weight's.
  struct Part {
    Cut cut;
    Product product;
    int64_t first_task;
  };

  const KernelTable& kernels_;
  std::vector<SharedWeight> weights_;
  std::shared_ptr<const float> bias_;
  Buffer *in_, *out_;
  std::vector<Part> parts_;
  int64_t num_tasks_ = 0;
};

const Operation linear("linear", [](const Call& call) {
  const Arguments& given = call.arguments;
  add_product(call.program, call.kernels, given.get<std::vector<SharedWeight>>("weight"), given.get_or<Floats>("bias", {}),
              given.get<Buffer*>("hidden"), call.results.at(0));
});

}  // namespace

void add_product(Program& program, const KernelTable& kernels, std::vector<SharedWeight> weights, Floats bias, Buffer* in,
                 Buffer* out) {
  int64_t num_outputs = 0;
  bool fit = !weights.empty();
  for (const SharedWeight& weight : weights) {
    fit = fit && weight->packed().num_inputs == in->width;
    num_outputs += weight->packed().num_outputs;
  }
  if (!fit || num_outputs != out->width) throw std::invalid_argument("a product's weights do not fit its buffers");
  for (const SharedWeight& weight : weights) in->take_form(kernels.form_for(weight->packed()));
  program.add(std::make_unique<ProductOp>(kernels, std::move(weights), std::move(bias), in, out), {in, out});
}

void compute_logits(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, float* out, ThreadPool& threads) {
  if (num_rows == 0) return;
  Product product = bind_product(weight, in);
  product.rows = rows;
  product.out = out;
  product.out_stride = weight.num_outputs;
  const Cut cut(weight, in, num_rows, threads.num_threads());
  threads.for_each(cut.num_tasks(), [&](int64_t task) { cut.run(kernels, product, task); });
}

}  // namespace octavo
