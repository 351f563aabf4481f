#include "ops.h"

#include <omp.h>

#include <algorithm>
#include <atomic>

#include "product_cut.h"

namespace octavo {
namespace {

// Brings a row nearer that other threads have just written in parts.
void fetch_row(const float* row, int64_t width) {
  constexpr int64_t FLOATS_A_LINE = 64 / sizeof(float);
  for (int64_t i = 0; i < width; i += FLOATS_A_LINE) __builtin_prefetch(row + i);
}

// Rows one by one, in equal shares for the threads.
class RowOp : public Op {
 public:
  void prepare(const Step& step, int num_threads) override {
    step_ = &step;
    num_rows_ = step.num_tokens;
    num_tasks_ = std::min<int64_t>(num_rows_, num_threads);
  }
  int64_t num_tasks(int) const override { return num_tasks_; }
  bool is_by_thread(int) const override { return true; }
  void run(int, int64_t task, int) override {
    const int64_t end = num_rows_ * (task + 1) / num_tasks_;
    for (int64_t row = num_rows_ * task / num_tasks_; row < end; ++row) run_row(row);
  }

 protected:
  virtual void run_row(int64_t row) = 0;

  const Step* step_ = nullptr;

 private:
  int64_t num_rows_ = 0;
  int64_t num_tasks_ = 0;
};

class EmbeddingOp final : public RowOp {
 public:
  EmbeddingOp(const KernelTable& kernels, const PackedWeight& weight, Ids ids, int64_t first_id, float scale, Buffer* out)
      : kernels_(kernels), weight_(weight), ids_(ids), first_id_(first_id), scale_(scale), out_(out) {}
  const char* name() const override { return "embedding"; }

 protected:
  void run_row(int64_t row) override {
    const int64_t id = (ids_ == Ids::positions ? step_->positions : step_->token_ids)[row];
    const int64_t weight_row = id - first_id_;
    float* vector = out_->data + row * out_->width;
    if (weight_row >= 0 && weight_row < weight_.num_outputs) {
      kernels_.embedding(weight_, weight_row, scale_, vector);
    } else {
      std::fill_n(vector, out_->width, 0.0f);
    }
    convert_row(kernels_, *out_, row);
  }

 private:
  const KernelTable& kernels_;
  const PackedWeight& weight_;
  Ids ids_;
  int64_t first_id_;
  float scale_;
  Buffer* out_;
};

class NormOp final : public RowOp {
 public:
  NormOp(const KernelTable& kernels, Vector weight, Vector bias, float eps, bool centred, Buffer* hidden,
         Buffer* residual, Buffer* normalised, Buffer* sum)
      : kernels_(kernels),
        weight_(std::move(weight)),
        bias_(std::move(bias)),
        eps_(eps),
        centred_(centred),
        hidden_(hidden),
        residual_(residual),
        normalised_(normalised),
        sum_(sum) {}
  const char* name() const override { return "norm"; }

 protected:
  void run_row(int64_t row) override {
    const int64_t at = row * hidden_->width;
    fetch_row(hidden_->data + at + hidden_->width, hidden_->width);
    Norm norm;
    norm.hidden = hidden_->data + at;
    norm.residual = residual_ ? residual_->data + at : nullptr;
    norm.weight = weight_ ? weight_->data() : nullptr;
    norm.bias = bias_ ? bias_->data() : nullptr;
    norm.normalised = normalised_->data + at;
    norm.sum = sum_->data + at;
    norm.size = hidden_->width;
    norm.eps = eps_;
    norm.centred = centred_;
    kernels_.norm(norm);
    convert_row(kernels_, *normalised_, row);
  }

 private:
  const KernelTable& kernels_;
  Vector weight_, bias_;
  float eps_;
  bool centred_;
  Buffer *hidden_, *residual_, *normalised_, *sum_;
};

class ActivationOp final : public RowOp {
 public:
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

class ElsewhereOp final : public RowOp {
 public:
  ElsewhereOp(const KernelTable& kernels, const char* name, Elsewhere work, Buffer* buffer)
      : kernels_(kernels), name_(name), work_(std::move(work)), buffer_(buffer) {}
  const char* name() const override { return name_; }
  int num_phases() const override { return buffer_->form == Form::float32 ? 1 : 2; }
  bool is_by_thread(int phase) const override { return phase == 1; }
  int64_t num_tasks(int phase) const override { return phase == 0 ? 1 : RowOp::num_tasks(phase); }
  void run(int phase, int64_t task, int thread) override {
    if (phase == 0) {
      work_(buffer_->data, step_->num_tokens, buffer_->width);
    } else {
      RowOp::run(phase, task, thread);
    }
  }

 protected:
  void run_row(int64_t row) override { convert_row(kernels_, *buffer_, row); }

 private:
  const KernelTable& kernels_;
  const char* name_;
  Elsewhere work_;
  Buffer* buffer_;
};

class ProductOp final : public Op {
 public:
  ProductOp(const KernelTable& kernels, const PackedWeight& weight, Vector bias, Buffer* in, Buffer* out)
      : kernels_(kernels), weight_(weight), bias_(std::move(bias)), in_(in), out_(out), cut_(weight, *in, 1, 1) {}
  const char* name() const override { return "product"; }
  void prepare(const Step& step, int num_threads) override {
    cut_ = Cut(weight_, *in_, step.num_tokens, num_threads);
    product_ = bind_product(weight_, *in_);
    product_.bias = bias_ ? bias_->data() : nullptr;
    product_.out = out_->data;
    product_.out_stride = out_->width;
  }
  int64_t num_tasks(int) const override { return cut_.num_tasks(); }
  void run(int, int64_t task, int) override { cut_.run(kernels_, product_, task); }

 private:
  const KernelTable& kernels_;
  const PackedWeight& weight_;
  Vector bias_;
  Buffer *in_, *out_;
  Cut cut_;
  Product product_;
};

}  // namespace

void convert_row(const KernelTable& kernels, Buffer& buffer, int64_t row) {
  const float* x = buffer.data + row * buffer.width;
  uint8_t* values = buffer.values + row * buffer.values_stride;
  if (buffer.form == Form::bfloat16) {
    kernels.to_bfloat16(x, buffer.width, reinterpret_cast<uint16_t*>(values), buffer.values_stride / 2);
  } else if (buffer.form != Form::float32) {
    const int64_t groups = row * buffer.num_groups();
    kernels.quantize(x, buffer.width, values, buffer.scales + groups, buffer.starts + groups);
  }
}

std::unique_ptr<Op> make_embedding_op(const KernelTable& kernels, const PackedWeight& weight, Ids ids, int64_t first_id,
                                      float scale, Buffer* out) {
  return std::make_unique<EmbeddingOp>(kernels, weight, ids, first_id, scale, out);
}

std::unique_ptr<Op> make_elsewhere_op(const KernelTable& kernels, const char* name, Elsewhere work, Buffer* buffer) {
  return std::make_unique<ElsewhereOp>(kernels, name, std::move(work), buffer);
}

std::unique_ptr<Op> make_norm_op(const KernelTable& kernels, Vector weight, Vector bias, float eps, bool centred,
                                 Buffer* hidden, Buffer* residual, Buffer* normalised, Buffer* sum) {
  return std::make_unique<NormOp>(kernels, std::move(weight), std::move(bias), eps, centred, hidden, residual,
                                  normalised, sum);
}

std::unique_ptr<Op> make_product_op(const KernelTable& kernels, const PackedWeight& weight, Vector bias, Buffer* in,
                                    Buffer* out) {
  return std::make_unique<ProductOp>(kernels, weight, std::move(bias), in, out);
}

std::unique_ptr<Op> make_activation_op(const KernelTable& kernels, Activation kind, Buffer* in, Buffer* out) {
  return std::make_unique<ActivationOp>(kernels, kind, in, out);
}

std::unique_ptr<Op> make_add_op(const KernelTable& kernels, Buffer* a, Buffer* b, Buffer* out) {
  return std::make_unique<AddOp>(kernels, a, b, out);
}

void compute_logits(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, float* out, int num_threads) {
  if (num_rows == 0) return;
  Product product = bind_product(weight, in);
  product.rows = rows;
  product.out = out;
  product.out_stride = weight.num_outputs;
  const Cut cut(weight, in, num_rows, num_threads);
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(num_threads)
  for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < cut.num_tasks();) {
    cut.run(kernels, product, task);
  }
}

}  // namespace octavo
