// The Python face of the kernels: octavo.kernels._cpu. Only the cpu backend uses it (src/octavo/kernels/cpu.py, recording.py).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "kv_cache.h"
#include "operation.h"
#include "ops/linear.h"
#include "program.h"
#include "threads.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octavo {
namespace {

using Integers = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntegerRows = nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const int64_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Places = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

Floats floats(const FloatArray& array) {
  if (array.ndim() != 1 && array.ndim() != 2) throw std::invalid_argument("floats come as a vector or as a table");
  Floats made;
  made.data = {array.data(), [array](const float*) {}};
  made.num_rows = array.ndim() == 1 ? 1 : static_cast<int64_t>(array.shape(0));
  made.num_columns = static_cast<int64_t>(array.shape(array.ndim() - 1));
  return made;
}

// `function` is called with the rows as a numpy array that it overwrites.
Callback callback(nb::callable function) {
  return [function](float* data, int64_t num_rows, int64_t width) {
    nb::gil_scoped_acquire locked;
    const nb::ndarray<nb::numpy, float, nb::ndim<2>> rows(data, {static_cast<size_t>(num_rows), static_cast<size_t>(width)});
    function(nb::cast(rows, nb::rv_policy::reference));
  };
}

Arguments arguments(const nb::dict& given);

Arguments::Value argument(const std::string& name, nb::handle value) {
  if (value.is_none()) return std::monostate{};
  if (nb::isinstance<nb::bool_>(value)) return nb::cast<bool>(value);
  if (nb::isinstance<nb::int_>(value)) return nb::cast<int64_t>(value);
  if (nb::isinstance<nb::float_>(value)) return nb::cast<double>(value);
  if (nb::isinstance<nb::str>(value)) return nb::cast<std::string>(value);
  if (nb::isinstance<Buffer>(value)) return nb::cast<Buffer*>(value);
  if (nb::isinstance<nb::dict>(value)) return std::make_shared<const Arguments>(arguments(nb::cast<nb::dict>(value)));
  if (nb::isinstance<nb::list>(value)) {
    const auto weights = nb::cast<std::vector<std::shared_ptr<Weight>>>(value);
    return std::vector<SharedWeight>(weights.begin(), weights.end());
  }
  if (FloatArray array; nb::try_cast(value, array, false)) return floats(array);
  if (nb::isinstance<nb::callable>(value)) return callback(nb::borrow<nb::callable>(value));
  throw std::invalid_argument("the C++ kernels don't take what the argument '" + name + "' is given");
}

Arguments arguments(const nb::dict& given) {
  std::map<std::string, Arguments::Value> values;
  for (const auto& [key, value] : given) {
    const auto name = nb::cast<std::string>(key);
    values.emplace(name, argument(name, value));
  }
  return Arguments(std::move(values));
}

// A program for Python, which runs without the lock.
class BoundProgram {
 public:
  BoundProgram(const std::string& instruction_set, std::shared_ptr<ThreadPool> threads)
      : kernels_(select_kernels(instruction_set.c_str())), threads_(std::move(threads)), program_(*threads_) {}

  std::string instruction_set() const { return kernels_.name; }

  Buffer* buffer(int64_t width) { return program_.add_buffer(width); }

  void add(const std::string& operation, const nb::dict& given, const std::vector<Buffer*>& results) {
    add_operation(operation, {program_, kernels_, arguments(given), results});
  }

  // Keep a buffer after the program has run, in the form that products with `head`, where there is one, take.
  void keep(Buffer& buffer, const Weight* head) {
    if (head) buffer.take_form(kernels_.form_for(head->packed().type));
    program_.keep(&buffer);
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
    if (static_cast<int64_t>(slots.shape(1)) != step.num_tokens || step.num_groups < program_.num_layer_groups() ||
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

  void logits(const Weight& weight, const Buffer& buffer, const Integers& rows, const FloatRows& out,
              const std::optional<Places>& likeliest) {
    const auto num_rows = static_cast<int64_t>(rows.size());
    if (static_cast<int64_t>(out.shape(0)) != num_rows ||
        static_cast<int64_t>(out.shape(1)) != weight.packed().num_outputs ||
        (likeliest && static_cast<int64_t>(likeliest->size()) != num_rows)) {
      throw std::invalid_argument("logits need an output of [rows, vocabulary], and a place for each row's likeliest token");
    }
    nb::gil_scoped_release unlocked;
    compute_logits(kernels_, weight.packed(), buffer, rows.data(), num_rows, out.data(),
                   likeliest ? likeliest->data() : nullptr, *threads_);
  }

  // What a kept buffer holds of some rows of the step that has just run.
  void read(const Buffer& buffer, const Integers& rows, const FloatRows& out) const {
    if (out.shape(0) != rows.size() || static_cast<int64_t>(out.shape(1)) != buffer.width) {
      throw std::invalid_argument("a buffer is read into [rows, its width]");
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(buffer.data + rows.data()[i] * buffer.width, buffer.width, out.data() + i * out.shape(1));
    }
  }

  void set_profiling(bool on) { program_.set_profiling(on); }
  std::vector<std::pair<std::string, double>> profile() const { return program_.profile(); }

 private:
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> threads_;
  Program program_;
};

}  // namespace
}  // namespace octavo

NB_MODULE(_cpu, m) {
  using namespace octavo;
  m.def(
      "instruction_set", [](const std::string& name) { return std::string(select_kernels(name.c_str()).name); },
      "name"_a = "auto");

  nb::class_<ThreadPool>(m, "ThreadPool")
      .def(nb::init<int>(), "num_threads"_a)
      .def_prop_ro("num_threads", &ThreadPool::num_threads);

  nb::class_<Weight>(m, "Weight")
      .def(
          "__init__",
          [](Weight* self, ThreadPool& threads, int type, int64_t num_outputs, int64_t num_inputs, uintptr_t values,
             uintptr_t scales) {
            nb::gil_scoped_release unlocked;
            new (self) Weight({static_cast<DataType>(type), num_outputs, num_inputs, pointer<const void>(values),
                               pointer<const float>(scales)},
                              threads);
          },
          "threads"_a, "type"_a, "num_outputs"_a, "num_inputs"_a, "values"_a, "scales"_a = 0)
      .def_prop_ro("num_outputs", [](const Weight& self) { return self.packed().num_outputs; })
      .def_prop_ro("num_inputs", [](const Weight& self) { return self.packed().num_inputs; })
      .def_prop_ro("num_bytes", &Weight::num_bytes);

  nb::class_<Buffer>(m, "Buffer");

  nb::class_<BoundProgram>(m, "Program")
      .def(nb::init<const std::string&, std::shared_ptr<ThreadPool>>(), "instruction_set"_a, "threads"_a)
      .def_prop_ro("instruction_set", &BoundProgram::instruction_set)
      .def("buffer", &BoundProgram::buffer, "width"_a, nb::rv_policy::reference_internal)
      .def("add", &BoundProgram::add, "operation"_a, "arguments"_a, "results"_a)
      .def("keep", &BoundProgram::keep, "buffer"_a, "head"_a.none())
      .def("run", &BoundProgram::run, "token_ids"_a, "positions"_a, "slots"_a, "query_starts"_a, "context_lens"_a,
           "tables"_a, "block_tables"_a)
      .def("logits", &BoundProgram::logits, "weight"_a, "buffer"_a, "rows"_a, "out"_a,
           "likeliest"_a = nb::none())
      .def("read", &BoundProgram::read, "buffer"_a, "rows"_a, "out"_a)
      .def("set_profiling", &BoundProgram::set_profiling, "on"_a)
      .def("profile", &BoundProgram::profile);

  m.def(
      "copy_blocks",
      [](ThreadPool& threads, uintptr_t source, uintptr_t destination, int64_t block_bytes, const Integers& source_ids,
         const Integers& destination_ids) {
        nb::gil_scoped_release unlocked;
        copy_blocks(pointer<const uint8_t>(source), pointer<uint8_t>(destination), block_bytes, source_ids.data(),
                    destination_ids.data(), static_cast<int64_t>(source_ids.size()), threads);
      },
      "threads"_a, "source"_a, "destination"_a, "block_bytes"_a, "source_ids"_a, "destination_ids"_a);
}
