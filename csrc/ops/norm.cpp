// Sum and norm of two activations: an RMS norm, or a layer norm.
#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

// What the norm reads and writes. `residual` may be null; `sum` may be it, or `hidden`.
struct NormBuffers {
  Buffer *hidden, *residual, *normalised, *sum;
};

class NormOp final : public RowOp {
 public:
  // `weight` and `bias` may be null.
  NormOp(const KernelTable& kernels, Floats weight, Floats bias, float eps, bool centred, const NormBuffers& buffers)
      : kernels_(kernels),
        weight_(std::move(weight.data)),
        bias_(std::move(bias.data)),
        eps_(eps),
        centred_(centred),
        buffers_(buffers) {}
  const char* name() const override { return "norm"; }

 protected:
  void run_row(int64_t row) override {
    const int64_t width = buffers_.hidden->width, at = row * width;
    fetch_row(buffers_.hidden->data + at + width, width);
    Norm norm;
    norm.hidden = buffers_.hidden->data + at;
    norm.residual = buffers_.residual ? buffers_.residual->data + at : nullptr;
    norm.weight = weight_.get();
    norm.bias = bias_.get();
    norm.normalised = buffers_.normalised->data + at;
    norm.sum = buffers_.sum->data + at;
    norm.size = width;
    norm.eps = eps_;
    norm.centred = centred_;
    kernels_.norm(norm);
    convert_row(kernels_, *buffers_.normalised, row);
  }

 private:
  const KernelTable& kernels_;
  std::shared_ptr<const float> weight_, bias_;
  float eps_;
  bool centred_;
  NormBuffers buffers_;
};

// Without a residual the sum is `hidden` itself, and no result of its own.
void add_norm(const Call& call, Floats bias, bool centred) {
  const Arguments& given = call.arguments;
  const auto hidden = given.get<Buffer*>("hidden");
  const auto residual = given.get_or<Buffer*>("residual", nullptr);
  const NormBuffers buffers{hidden, residual, call.results.at(0), residual ? call.results.at(1) : hidden};
  std::vector<Buffer*> used = {hidden, buffers.normalised, buffers.sum};
  if (residual) used.push_back(residual);
  call.program.add(std::make_unique<NormOp>(call.kernels, given.get_or<Floats>("weight", {}), std::move(bias),
                                            static_cast<float>(given.get<double>("eps")), centred, buffers),
                   used);
}

const Operation rms_norm("rms_norm", [](const Call& call) { add_norm(call, {}, false); });
const Operation layer_norm("layer_norm",
                           [](const Call& call) { add_norm(call, call.arguments.get_or<Floats>("bias", {}), true); });

}  // namespace
}  // namespace octavo
