// Each token's row of a table by the segment of its row that it is in: separators end segments.
#include <vector>

#include "../operation.h"
#include "row_op.h"

namespace octavo {
namespace {

class SegmentEmbeddingOp final : public RowOp {
 public:
  SegmentEmbeddingOp(const KernelTable& kernels, SharedWeight weight, int64_t separator, Buffer* out)
      : kernels_(kernels), weight_(std::move(weight)), separator_(separator), out_(out) {}
  const char* name() const override { return "segment_embedding"; }

  void prepare(const Step& step, int num_threads) override {
    RowOp::prepare(step, num_threads);
    segments_.resize(static_cast<size_t>(step.num_tokens));
    const int64_t last = weight_->packed().num_outputs - 1;
    for (int64_t row = 0; row < step.num_rows; ++row) {
      int64_t segment = 0;
      for (int64_t token = step.query_starts[row]; token < step.query_starts[row + 1]; ++token) {
        segments_[static_cast<size_t>(token)] = segment;
        if (step.token_ids[token] == separator_) segment = std::min(segment + 1, last);
      }
    }
  }

 protected:
  void run_row(int64_t row) override {
    kernels_.embedding(weight_->packed(), segments_[static_cast<size_t>(row)], 1.0f, out_->data + row * out_->width);
    convert_row(kernels_, *out_, row);
  }

 private:
  const KernelTable& kernels_;
  SharedWeight weight_;
  int64_t separator_;
  Buffer* out_;
  std::vector<int64_t> segments_;  // [num_tokens]
};

void add_segment_embedding(const Call& call) {
  Buffer* out = call.results.at(0);
  call.program.add(std::make_unique<SegmentEmbeddingOp>(call.kernels, call.arguments.weight("weight"),
                                                        call.arguments.get<int64_t>("separator"), out),
                   {out});
}

const Operation segment_embedding("segment_embedding", add_segment_embedding);

}  // namespace
}  // namespace octavo
