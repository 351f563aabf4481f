// A sum over the ranks, which Python makes: the step's threads wait in the meantime.
#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

class AllReduceOp final : public RowOp {
 public:
  AllReduceOp(const KernelTable& kernels, Callback reduce, Buffer* buffer)
      : kernels_(kernels), reduce_(std::move(reduce)), buffer_(buffer) {}
  const char* name() const override { return "all_reduce"; }
  // Reduce; convert rows for the product that follows.
  int num_phases() const override { return buffer_->form == Form::float32 ? 1 : 2; }
  Taking taking(int phase) const override {
    return phase == 0 ? Taking::by_caller : Taking::own_first;
  }
  int64_t num_tasks(int phase) const override { return phase == 0 ? 1 : RowOp::num_tasks(phase); }
  void run(int phase, int64_t task, int thread) override {
    if (phase == 0) {
      reduce_(buffer_->data, step_->num_tokens, buffer_->width);
    } else {
      RowOp::run(phase, task, thread);
    }
  }

 protected:
  void run_row(int64_t row) override { convert_row(kernels_, *buffer_, row); }

 private:
  const KernelTable& kernels_;
  Callback reduce_;
  Buffer* buffer_;
};

const Operation all_reduce("all_reduce", [](const Call& call) {
  const auto hidden = call.arguments.get<Buffer*>("hidden");
  call.program.add(std::make_unique<AllReduceOp>(call.kernels, call.arguments.get<Callback>("reduce"), hidden), {hidden});
});

}  // namespace
}  // namespace octavo
