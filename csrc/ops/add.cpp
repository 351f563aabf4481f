// The sum of two activations.
#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

class AddOp final : public RowOp {
 public:
  AddOp(const KernelTable& kernels, Buffer* a, Buffer* b, Buffer* out) : kernels_(kernels), a_(a), b_(b), out_(out) {}
  const char* name() const override { return "add"; }

 protected:
  void run_row(int64_t row) override {
    const int64_t at = row * out_->width;
    kernels_.add(a_->data + at, b_->data + at, out_->data + at, out_->width);
    convert_row(kernels_, *out_, row);
  }

 private:
  const KernelTable& kernels_;
  Buffer *a_, *b_, *out_;
};

const Operation add("add", [](const Call& call) {
  const auto a = call.arguments.get<Buffer*>("a"), b = call.arguments.get<Buffer*>("b");
  Buffer* out = call.results.at(0);
  call.program.add(std::make_unique<AddOp>(call.kernels, a, b, out), {a, b, out});
});

}  // namespace
}  // namespace octavo
