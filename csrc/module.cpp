// The Python face of the kernels: octavo.kernels._cpu. Only src/octavo/kernels/cpu.py uses it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "attention_op.h"
#include "experts_op.h"
#include "kernels.h"
#include "kv_cache.h"
#include "ops.h"
#include "program.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Integers = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntegerRows = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Vector copied(const std::optional<Floats>& values) {
  if (!values) return nullptr;
  return std::make_shared<const std::vector<float>>(values->data(), values->data() + values->size());
}

// A program with the weights that it is bound to. Buffers go by their index.
class BoundProgram {
 public:
  BoundProgram(const std::string& instruction_set, int num_threads)
      : kernels_(select_kernels(instruction_set.c_str())),
        num_threads_(num_threads),
        program_(num_threads),
        planner_(make_attention_planner()) {}

  std::string instruction_set() const { return kernels_.name; }

  int buffer(int64_t width) {
    buffers_.push_back(program_.add_buffer(width));
    return static_cast<int>(buffers_.size()) - 1;
  }

  void embedding(std::shared_ptr<Weight> weight, int out, bool of_positions, float scale, int64_t first_id) {
    const Ids ids = of_positions ? Ids::positions : Ids::tokens;
    add(make_embedding_op(kernels_, weight->packed(), ids, first_id, scale, at(out)), {out});
    weights_.push_back(std::move(weight));
  }

  void norm(const std::optional<Floats>& weight, const std::optional<Floats>& bias, float eps, bool centred, int hidden,
            int residual, int normalised, int sum) {
    Buffer* added = residual < 0 ? nullptr : at(residual);
    std::vector<int> used = {hidden, normalised, sum};
    if (added) used.push_back(residual);
    add(make_norm_op(kernels_, copied(weight), copied(bias), eps, centred, at(hidden), added, at(normalised), at(sum)),
        used);
  }

  void product(std::shared_ptr<Weight> weight, const std::optional<Floats>& bias, int in, int out) {
    if (weight->packed().num_inputs != at(in)->width || weight->packed().num_outputs != at(out)->width) {
      throw std::invalid_argument("a product's weight does not fit its buffers");
    }
    at(in)->take_form(kernels_.form_for(weight->packed().type));
    add(make_product_op(kernels_, weight->packed(), copied(bias), at(in), at(out)), {in, out});
    weights_.push_back(std::move(weight));
  }

  void activation(int kind, int in, int out) {
    add(make_activation_op(kernels_, static_cast<Activation>(kind), at(in), at(out)), {in, out});
  }

  void sum(int a, int b, int out) { add(make_add_op(kernels_, at(a), at(b), at(out)), {a, b, out}); }

  void experts(const std::vector<std::shared_ptr<Weight>>& gate_up, const std::vector<std::shared_ptr<Weight>>& down,
               int64_t num_chosen, int kind, int hidden, int scores, int out) {
    Experts experts;
    for (const auto& weight : gate_up) experts.gate_up.push_back(&weight->packed());
    for (const auto& weight : down) experts.down.push_back(&weight->packed());
    if (gate_up.empty() || down.empty()) throw std::invalid_argument("a layer of experts needs some");
    experts.num_chosen = num_chosen;
    experts.activation = static_cast<Activation>(kind);
    const PackedWeight &up_weight = *experts.gate_up[0], &down_weight = *experts.down[0];
    const ExpertBuffers buffers{at(hidden),
                                at(scores),
                                program_.add_buffer(up_weight.num_outputs, num_chosen),
                                program_.add_buffer(down_weight.num_inputs, num_chosen),
                                program_.add_buffer(down_weight.num_outputs, num_chosen),
                                at(out)};
    buffers.hidden->take_form(kernels_.form_for(up_weight.type));
    buffers.activated->take_form(kernels_.form_for(down_weight.type));
    program_.add(make_experts_op(kernels_, std::move(experts), buffers),
                 {buffers.hidden, buffers.scores, buffers.gate_up, buffers.activated, buffers.results, buffers.out});
    weights_.insert(weights_.end(), gate_up.begin(), gate_up.end());
    weights_.insert(weights_.end(), down.begin(), down.end());
  }

  // `reduce` is called with a buffer's [num_tokens, width] as a numpy array that it overwrites.
  void all_reduce(nb::callable reduce, int buffer) {
    const auto work = [reduce](float* data, int64_t num_tokens, int64_t width) {
      nb::gil_scoped_acquire locked;
      const nb::ndarray<nb::numpy, float, nb::ndim<2>> rows(
          data, {static_cast<size_t>(num_tokens), static_cast<size_t>(width)});
      reduce(nb::cast(rows, nb::rv_policy::reference));
    };
    add(make_elsewhere_op(kernels_, "all_reduce", work, at(buffer)), {buffer});
  }

  void attention(const AttentionSpec& spec, const KVCacheView& cache, DataType cache_type, int qkv, int out) {
    add(make_attention_op(kernels_, spec, planner_, cache, cache_type, at(qkv), at(out)), {qkv, out});
    num_groups_ = std::max(num_groups_, spec.layer_group + 1);
  }

  // Keep a buffer after the program has run, in the form that products with `head` take.
  void keep(int buffer, const Weight& head) {
    at(buffer)->take_form(kernels_.form_for(head.packed().type));
    program_.keep(at(buffer));
  }

  // `slots` [num_groups, num_tokens] and `block_tables` [num_groups, num_tables, max_blocks] are of all layer groups;
  // `tables` [num_rows] says which of the tables are those of the step's rows.
  void run(const Integers& token_ids, const Integers& positions, const IntegerRows& slots, const Integers& query_starts,
           const Integers& context_lens, const Integers& tables, const Tables& block_tables) {
    Step step;
    step.num_tokens = static_cast<int64_t>(token_ids.size());
    step.num_rows = static_cast<int64_t>(context_lens.size());
    step.num_groups = static_cast<int64_t>(slots.shape(0));
    step.num_tables = static_cast<int64_t>(block_tables.shape(1));
    step.max_blocks = static_cast<int64_t>(block_tables.shape(2));
    if (static_cast<int64_t>(slots.shape(1)) != step.num_tokens || step.num_groups < num_groups_ ||
        static_cast<int64_t>(block_tables.shape(0)) != step.num_groups ||
        static_cast<int64_t>(tables.size()) != step.num_rows ||
        std::any_of(tables.data(), tables.data() + tables.size(),
                    [&](int64_t table) { return table < 0 || table >= step.num_tables; })) {
      throw std::invalid_argument("a step needs slots and block tables of each layer group, for its tokens and its rows");
    }
    step.token_ids = token_ids.data();
    step.positions = positions.data();
    step.slots = slots.data();
    step.query_starts = query_starts.data();
    step.context_lens = context_lens.data();
    step.tables = tables.data();
    step.block_tables = block_tables.data();
    nb::gil_scoped_release unlocked;
    program_.run(step);
  }

  void logits(const Weight& weight, int buffer, const Integers& rows, const FloatRows& out) {
    const auto num_rows = static_cast<int64_t>(rows.size());
    if (static_cast<int64_t>(out.shape(0)) != num_rows ||
        static_cast<int64_t>(out.shape(1)) != weight.packed().num_outputs) {
      throw std::invalid_argument("logits need an output of [rows, vocabulary]");
    }
    nb::gil_scoped_release unlocked;
    compute_logits(kernels_, weight.packed(), *at(buffer), rows.data(), num_rows, out.data(), num_threads_);
  }

  void set_profiling(bool on) { program_.set_profiling(on); }
  std::vector<std::pair<std::string, double>> profile() const { return program_.profile(); }

 private:
  Buffer* at(int buffer) { return buffers_.at(static_cast<size_t>(buffer)); }
  void add(std::unique_ptr<Op> op, const std::vector<int>& used) {
    std::vector<Buffer*> buffers;
    for (int index : used) buffers.push_back(at(index));
    program_.add(std::move(op), buffers);
  }

  const KernelTable& kernels_;
  int num_threads_;
  int64_t num_groups_ = 0;  // that its attentions use
  Program program_;
  std::shared_ptr<AttentionPlanner> planner_;
  std::vector<Buffer*> buffers_;
  std::vector<std::shared_ptr<Weight>> weights_;
};

}  // namespace
}  // namespace octavo

NB_MODULE(_cpu, m) {
  using namespace octavo;
  m.def(
      "instruction_set", [](const std::string& name) { return std::string(select_kernels(name.c_str()).name); },
      "name"_a = "auto");

  nb::class_<Weight>(m, "Weight")
      .def(
          "__init__",
          [](Weight* self, int type, int64_t num_outputs, int64_t num_inputs, uintptr_t values, uintptr_t scales) {
            new (self) Weight({static_cast<DataType>(type), num_outputs, num_inputs, pointer<const void>(values),
                               pointer<const float>(scales)});
          },
          "type"_a, "num_outputs"_a, "num_inputs"_a, "values"_a, "scales"_a = 0)
      .def_prop_ro("num_outputs", [](const Weight& self) { return self.packed().num_outputs; })
      .def_prop_ro("num_inputs", [](const Weight& self) { return self.packed().num_inputs; })
      .def_prop_ro("num_bytes", &Weight::num_bytes);

  nb::class_<BoundProgram>(m, "Program")
      .def(nb::init<const std::string&, int>(), "instruction_set"_a, "num_threads"_a)
      .def_prop_ro("instruction_set", &BoundProgram::instruction_set)
      .def("buffer", &BoundProgram::buffer, "width"_a)
      .def("embedding", &BoundProgram::embedding, "weight"_a, "out"_a, "of_positions"_a, "scale"_a, "first_id"_a)
      .def("norm", &BoundProgram::norm, "weight"_a.none(), "bias"_a.none(), "eps"_a, "centred"_a, "hidden"_a, "residual"_a,
           "normalised"_a, "sum"_a)
      .def("product", &BoundProgram::product, "weight"_a, "bias"_a.none(), "input"_a, "out"_a)
      .def("activation", &BoundProgram::activation, "kind"_a, "input"_a, "out"_a)
      .def("add", &BoundProgram::sum, "a"_a, "b"_a, "out"_a)
      .def("experts", &BoundProgram::experts, "gate_up"_a, "down"_a, "num_chosen"_a, "kind"_a, "hidden"_a, "scores"_a,
           "out"_a)
      .def("all_reduce", &BoundProgram::all_reduce, "reduce"_a, "buffer"_a)
      .def(
          "attention",
          [](BoundProgram& self, int qkv, int out, int64_t layer_group, int64_t layer, int64_t num_heads,
             int64_t num_kv_heads, int64_t head_dim, float scale, int64_t window, float softcap, uintptr_t query_norm,
             uintptr_t key_norm, float norm_eps, uintptr_t cos_sin, int64_t rotary_dim, uintptr_t cache,
             int64_t num_blocks, int64_t num_layers, int64_t block_size, int cache_type) {
            const auto type = static_cast<DataType>(cache_type);
            self.attention(make_attention_spec(layer_group, layer, num_heads, num_kv_heads, head_dim, scale, window,
                                               softcap, pointer<const float>(query_norm), pointer<const float>(key_norm),
                                               norm_eps, pointer<const float>(cos_sin), rotary_dim),
                           make_kv_cache_view(pointer<uint8_t>(cache), num_blocks, num_layers, block_size, num_kv_heads,
                                              head_dim, type),
                           type, qkv, out);
          },
          "qkv"_a, "out"_a, nb::kw_only(), "layer_group"_a, "layer"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a,
          "scale"_a, "window"_a, "softcap"_a, "query_norm"_a, "key_norm"_a, "norm_eps"_a, "cos_sin"_a, "rotary_dim"_a,
          "cache"_a, "num_blocks"_a, "num_layers"_a, "block_size"_a, "cache_type"_a)
      .def("keep", &BoundProgram::keep, "buffer"_a, "head"_a)
      .def("run", &BoundProgram::run, "token_ids"_a, "positions"_a, "slots"_a, "query_starts"_a, "context_lens"_a,
           "tables"_a, "block_tables"_a)
      .def("logits", &BoundProgram::logits, "weight"_a, "buffer"_a, "rows"_a, "out"_a)
      .def("set_profiling", &BoundProgram::set_profiling, "on"_a)
      .def("profile", &BoundProgram::profile);

  m.def(
      "copy_blocks",
      [](uintptr_t source, uintptr_t destination, int64_t block_bytes, const Integers& source_ids,
         const Integers& destination_ids) {
        nb::gil_scoped_release unlocked;
        copy_blocks(pointer<const uint8_t>(source), pointer<uint8_t>(destination), block_bytes, source_ids.data(),
                    destination_ids.data(), static_cast<int64_t>(source_ids.size()));
      },
      "source"_a, "destination"_a, "block_bytes"_a, "source_ids"_a, "destination_ids"_a);
}
