// Each token's row of a table: of its id, or of its position.
#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

class EmbeddingOp final : public RowOp {
 public:
  // The weight's rows belong to the ids from `first_id` on; for others there are zeros.
  EmbeddingOp(const KernelTable& kernels, SharedWeight weight, bool of_positions, int64_t first_id, float scale, Buffer* out)
      : kernels_(kernels),
        weight_(std::move(weight)),
        of_positions_(of_positions),
        first_id_(first_id),
        scale_(scale),
        out_(out) {}
  const char* name() const override { return "embedding"; }

 protected:
  void run_row(int64_t row) override {
    const int64_t id = (of_positions_ ? step_->positions : step_->token_ids)[row];
    const int64_t weight_row = id - first_id_;
    float* vector = out_->data + row * out_->width;
    if (weight_row >= 0 && weight_row < weight_->packed().num_outputs) {
      kernels_.embedding(weight_->packed(), weight_row, scale_, vector);
    } else {
      std::fill_n(vector, out_->width, 0.0f);
    }
    convert_row(kernels_, *out_, row);
  }

 private:
  const KernelTable& kernels_;
  SharedWeight weight_;
  bool of_positions_;
  int64_t first_id_;
  float scale_;
  Buffer* out_;
};

void add_embedding(const Call& call) {
  const Arguments& given = call.arguments;
  Buffer* out = call.results.at(0);
  call.program.add(std::make_unique<EmbeddingOp>(call.kernels, given.weight("weight"),
                                                 given.get<std::string>("ids") == "positions", given.get<int64_t>("first_id"),
                                                 static_cast<float>(given.get<double>("scale")), out),
                   {out});
}

const Operation embedding("embedding", add_embedding);

}  // namespace
}  // namespace octavo
