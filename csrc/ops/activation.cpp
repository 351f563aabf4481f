// Each element's activation, alone or times a second half.
#include "activation.h"

#include <stdexcept>

#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

class ActivationOp final : public RowOp {
 public:
  // Where `in` is twice as wide as `out`, its second half multiplies the activations of its first.
  ActivationOp(const KernelTable& kernels, Activation kind, Buffer* in, Buffer* out)
      : kernels_(kernels), kind_(kind), in_(in), out_(out) {}
  const char* name() const override { return "activation"; }

 protected:
  void run_row(int64_t row) override {
    const float* x = in_->data + row * in_->width;
    fetch_row(x + in_->width, in_->width);
    const float* factor = in_->width == out_->width ? nullptr : x + out_->width;
    kernels_.activation(kind_, x, factor, out_->data + row * out_->width, out_->width);
    convert_row(kernels_, *out_, row);
  }

 private:
  const KernelTable& kernels_;
  Activation kind_;
  Buffer *in_, *out_;
};

void add_activation(const Call& call, Buffer* in) {
  Buffer* out = call.results.at(0);
  const Activation kind = activation_named(call.arguments.get<std::string>("kind"));
  call.program.add(std::make_unique<ActivationOp>(call.kernels, kind, in, out), {in, out});
}

const Operation activation("activation",
                           [](const Call& call) { add_activation(call, call.arguments.get<Buffer*>("hidden")); });
const Operation activation_and_mul("activation_and_mul", [](const Call& call) {
  add_activation(call, call.arguments.get<Buffer*>("gate_up"));
});

}  // namespace

Activation activation_named(const std::string& name) {
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "silu") return Activation::silu;
  throw std::invalid_argument("the C++ kernels have no activation '" + name + "'");
}

}  // namespace octavo
