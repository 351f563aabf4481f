#include "linear.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "../product_cut.h"

namespace octavo {
namespace {

class ProductOp final : public Op {
 public:
  // `in` must be asked for the form that the weight's products take.
  ProductOp(const KernelTable& kernels, SharedWeight weight, Floats bias, Buffer* in, Buffer* out)
      : kernels_(kernels),
        weight_(std::move(weight)),
        bias_(std::move(bias.data)),
        in_(in),
        out_(out),
        cut_(weight_->packed(), *in, 1, 1) {}
  const char* name() const override { return "product"; }
  void prepare(const Step& step, int num_threads) override {
    cut_ = Cut(weight_->packed(), *in_, step.num_tokens, num_threads);
    product_ = bind_product(weight_->packed(), *in_);
    product_.bias = bias_.get();
    product_.out = out_->data;
    product_.out_stride = out_->width;
  }
  int64_t num_tasks(int) const override { return cut_.num_tasks(); }
  void run(int, int64_t task, int) override { cut_.run(kernels_, product_, task); }

 private:
  const KernelTable& kernels_;
  SharedWeight weight_;
  std::shared_ptr<const float> bias_;
  Buffer *in_, *out_;
  Cut cut_;
  Product product_;
};

// The peaks [rows, chunks] of the outputs that a task has made.
void find_peaks(const KernelTable& kernels, const Product& product, const Cut& cut, int64_t task, Peak* peaks) {
  const Cut::Range rows = cut.rows(task), panels = cut.panels(task);
  const int64_t begin = panels.begin * PANEL, end = std::min(product.weight->num_outputs, panels.end * PANEL);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    Peak& found = peaks[row * cut.num_chunks + panels.begin / cut.panels_a_chunk];
    found = kernels.peak(product.out + row * product.out_stride + begin, end - begin);
    found.place += begin;
  }
}

// Where the highest of a row's peaks is, the first of equals; -1 where one is not of finite values.
int64_t highest_place(const Peak* peaks, int64_t count) {
  Peak highest;
  for (const Peak* peak = peaks; peak < peaks + count; ++peak) {
    if (!peak->is_finite) return -1;
    if (peak->value > highest.value) highest = *peak;
  }
  return highest.place;
}

const Operation linear("linear", [](const Call& call) {
  const Arguments& given = call.arguments;
  add_product(call.program, call.kernels, given.weight("weight"), given.get_or<Floats>("bias", {}),
              given.get<Buffer*>("hidden"), call.results.at(0));
});

}  // namespace

void add_product(Program& program, const KernelTable& kernels, SharedWeight weight, Floats bias, Buffer* in, Buffer* out) {
  const PackedWeight& packed = weight->packed();
  if (packed.num_inputs != in->width || packed.num_outputs != out->width) {
    throw std::invalid_argument("a product's weight does not fit its buffers");
  }
  in->take_form(kernels.form_for(packed.type));
  program.add(std::make_unique<ProductOp>(kernels, std::move(weight), std::move(bias), in, out), {in, out});
}

void compute_logits(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, float* out, int64_t* likeliest, ThreadPool& threads) {
  if (num_rows == 0) return;
  Product product = bind_product(weight, in);
  product.rows = rows;
  product.out = out;
  product.out_stride = weight.num_outputs;
  const Cut cut(weight, in, num_rows, threads.num_threads());
  std::vector<Peak> peaks(likeliest ? num_rows * cut.num_chunks : 0);
  threads.for_each(cut.num_tasks(), [&](int64_t task) {
    cut.run(kernels, product, task);
    if (likeliest) find_peaks(kernels, product, cut, task, peaks.data());
  });
  for (int64_t row = 0; likeliest && row < num_rows; ++row) {
    likeliest[row] = highest_place(&peaks[row * cut.num_chunks], cut.num_chunks);
  }
}

}  // namespace octavo
