// The Python face of the kernels: octavo.kernels._cpu. The cpu backend uses it (src/octavo/kernels/cpu.py, recording.py), and
// whatever reads weights (loading_threads.py).
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

#include "checksum.h"
#include "gguf_blocks.h"
#include "kernels.h"
#include "kv_cache.h"
#include "operation.h"
#include "ops/likeliest.h"
#include "ops/linear.h"
#include "program.h"
#include "quantizer.h"
#include "sampling.h"
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
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using LogitRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats32 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats64 = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Keys = nb::ndarray<const uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using StoredRows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using CodeRows = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using HalfRows = nb::ndarray<uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowScales = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using SpacedRows = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;

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

// A weight that has been packed to a form, in memory that Python owns and keeps for as long as this lives.
Weight packed_before(const PackedWeight& form, const Bytes& memory) {
  if (static_cast<int64_t>(memory.size()) != num_bytes(form)) {
    throw std::invalid_argument("a packed weight's memory has another size than its form asks for");
  }
  return {form, {const_cast<uint8_t*>(memory.data()), [memory](uint8_t*) {}}};
}

template <class Rows>
bool has_shape(const Rows& rows, size_t num_rows, int64_t width) {
  return rows.shape(0) == num_rows && static_cast<int64_t>(rows.shape(1)) == width;
}

void decode_gguf_rows(ThreadPool& threads, int64_t ggml_type, const StoredRows& stored, const Integers& order,
                      const CodeRows& codes, const FloatRows& scales, const std::optional<FloatRows>& minimums) {
  const BlockType& type = block_type(ggml_type);
  const size_t num_rows = order.size();
  const auto row_bytes = static_cast<int64_t>(stored.shape(1)), num_stored = static_cast<int64_t>(stored.shape(0));
  const int64_t num_blocks = row_bytes / type.block_bytes, num_groups = num_blocks * type.num_groups;
  if (row_bytes % type.block_bytes != 0 || minimums.has_value() != type.has_minimums ||
      !has_shape(codes, num_rows, num_blocks * type.code_bytes) || !has_shape(scales, num_rows, num_groups) ||
      (minimums && !has_shape(*minimums, num_rows, num_groups))) {
    throw std::invalid_argument("codes, scales and minimums have not the sizes that the blocks ask for");
  }
  if (std::any_of(order.data(), order.data() + num_rows, [&](int64_t row) { return row < 0 || row >= num_stored; })) {
    throw std::invalid_argument("a row is asked for that is not stored");
  }
  nb::gil_scoped_release unlocked;
  decode_gguf(threads, type, stored.data(), num_blocks, order.data(), static_cast<int64_t>(num_rows),
              {codes.data(), scales.data(), minimums ? minimums->data() : nullptr});
}

template <class T>
bool has_columns_side_by_side(const SpacedRows<T>& rows) {
  return rows.shape(1) <= 1 || rows.stride(1) == 1;
}

// The arrays of octavo.kernels.grouped.GroupedRows, into those of a GroupedWeight's rows.
void fill_groups_of(const std::string& instruction_set, ThreadPool& threads, const SpacedRows<uint8_t>& codes,
                    const SpacedRows<float>& scales, const std::optional<SpacedRows<float>>& minimums,
                    const CodeRows& own_codes, const HalfRows& own_scales, const std::optional<HalfRows>& own_minimums,
                    const RowScales& row_scales) {
  const size_t num_rows = codes.shape(0);
  const auto code_bytes = static_cast<int64_t>(codes.shape(1)), num_groups = static_cast<int64_t>(scales.shape(1));
  if (minimums.has_value() != own_minimums.has_value() || !has_shape(scales, num_rows, num_groups) ||
      (minimums && (!has_shape(*minimums, num_rows, num_groups) || !has_shape(*own_minimums, num_rows, num_groups))) ||
      !has_shape(own_codes, num_rows, code_bytes) || !has_shape(own_scales, num_rows, num_groups) ||
      row_scales.size() != num_rows) {
    throw std::invalid_argument("rows in groups have not the sizes of the weight's");
  }
  if (!has_columns_side_by_side(codes) || !has_columns_side_by_side(scales) ||
      (minimums && !has_columns_side_by_side(*minimums))) {
    throw std::invalid_argument("the columns of rows in groups must lie side by side");
  }
  const KernelTable& kernels = select_kernels(instruction_set.c_str());
  nb::gil_scoped_release unlocked;
  fill_groups(kernels, threads,
              {static_cast<int64_t>(num_rows), code_bytes, num_groups, codes.data(), codes.stride(0), scales.data(),
               scales.stride(0), minimums ? minimums->data() : nullptr, minimums ? minimums->stride(0) : 0},
              {own_codes.data(), own_scales.data(), own_minimums ? own_minimums->data() : nullptr, row_scales.data()});
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

// Addresses are those of PlainGroupedWeight's arrays; no minimums: 0. What has been packed before needs none of the others.
std::shared_ptr<Weight> grouped_weight(ThreadPool& threads, int64_t bits, int64_t num_outputs, int64_t num_inputs,
                                       int64_t group, uintptr_t codes, uintptr_t scales, uintptr_t row_scales,
                                       uintptr_t minimums, const std::optional<std::vector<int8_t>>& table,
                                       const std::optional<Bytes>& packed) {
  if (table && table->size() != 16) throw std::invalid_argument("a table has a number for each of 16 codes");
  const PlainGroupedWeight plain{bits, num_outputs, num_inputs, group, pointer<const uint8_t>(codes),
                                 pointer<const uint16_t>(scales), pointer<const uint16_t>(minimums),
                                 pointer<const float>(row_scales), table ? table->data() : nullptr};
  return packed ? std::make_shared<Weight>(packed_before(form_of(plain), *packed)) : std::make_shared<Weight>(plain, threads);
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
    if (head) buffer.take_form(kernels_.form_for(head->packed()));
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

  void logits(const Weight& weight, const Buffer& buffer, const Integers& rows, const FloatRows& out) {
    const auto num_rows = static_cast<int64_t>(rows.size());
    if (static_cast<int64_t>(out.shape(0)) != num_rows ||
        static_cast<int64_t>(out.shape(1)) != weight.packed().num_outputs) {
      throw std::invalid_argument("logits need an output of [rows, vocabulary]");
    }
    nb::gil_scoped_release unlocked;
    compute_logits(kernels_, weight.packed(), buffer, rows.data(), num_rows, out.data(), *threads_);
  }

  void likeliest(const Weight& weight, const Buffer& buffer, const Integers& rows, const Places& places) {
    if (places.size() != rows.size()) throw std::invalid_argument("each row needs a place for its likeliest token");
    nb::gil_scoped_release unlocked;
    find_likeliest(kernels_, weight.packed(), buffer, rows.data(), static_cast<int64_t>(rows.size()), places.data(),
                   *threads_);
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
  nb::set_leak_warnings(false);  // a script may end while threads of its own compute
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
             uintptr_t scales, const std::optional<Bytes>& packed) {
            const PlainWeight plain{static_cast<DataType>(type), num_outputs, num_inputs, pointer<const void>(values),
                                    pointer<const float>(scales)};
            if (packed) {
              new (self) Weight(packed_before(form_of(plain), *packed));
            } else {
              nb::gil_scoped_release unlocked;
              new (self) Weight(plain, threads);
            }
          },
          "threads"_a, "type"_a, "num_outputs"_a, "num_inputs"_a, "values"_a, "scales"_a = 0, "packed"_a = nb::none())
      .def_prop_ro(
          "packed",
          [](const Weight& self) {
            const auto size = static_cast<size_t>(num_bytes(self.packed()));
            return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(self.packed().data, {size});
          },
          nb::rv_policy::reference_internal)
      .def_prop_ro("num_outputs", [](const Weight& self) { return self.packed().num_outputs; })
      .def_prop_ro("num_inputs", [](const Weight& self) { return self.packed().num_inputs; })
      .def_prop_ro("num_bytes", [](const Weight& self) { return num_bytes(self.packed()); })
      .def_static("grouped", &grouped_weight, "threads"_a, "bits"_a, "num_outputs"_a, "num_inputs"_a, "group"_a, "codes"_a, "scales"_a,
                  "row_scales"_a, "minimums"_a = 0, "table"_a = nb::none(), "packed"_a = nb::none());

  nb::class_<Buffer>(m, "Buffer");

  nb::class_<BoundProgram>(m, "Program")
      .def(nb::init<const std::string&, std::shared_ptr<ThreadPool>>(), "instruction_set"_a, "threads"_a)
      .def_prop_ro("instruction_set", &BoundProgram::instruction_set)
      .def("buffer", &BoundProgram::buffer, "width"_a, nb::rv_policy::reference_internal)
      .def("add", &BoundProgram::add, "operation"_a, "arguments"_a, "results"_a)
      .def("keep", &BoundProgram::keep, "buffer"_a, "head"_a.none())
      .def("run", &BoundProgram::run, "token_ids"_a, "positions"_a, "slots"_a, "query_starts"_a, "context_lens"_a,
           "tables"_a, "block_tables"_a)
      .def("logits", &BoundProgram::logits, "weight"_a, "buffer"_a, "rows"_a, "out"_a)
      .def("likeliest", &BoundProgram::likeliest, "weight"_a, "buffer"_a, "rows"_a, "places"_a)
      .def("read", &BoundProgram::read, "buffer"_a, "rows"_a, "out"_a)
      .def("set_profiling", &BoundProgram::set_profiling, "on"_a)
      .def("profile", &BoundProgram::profile);

  m.def(
      "checksum",
      [](ThreadPool& threads, const Bytes& bytes) {
        nb::gil_scoped_release unlocked;
        return checksum(threads, bytes.data(), static_cast<int64_t>(bytes.size()));
      },
      "threads"_a, "bytes"_a);
  m.def(
      "copy_blocks",
      [](ThreadPool& threads, uintptr_t source, uintptr_t destination, int64_t block_bytes, const Integers& source_ids,
         const Integers& destination_ids) {
        nb::gil_scoped_release unlocked;
        copy_blocks(pointer<const uint8_t>(source), pointer<uint8_t>(destination), block_bytes, source_ids.data(),
                    destination_ids.data(), static_cast<int64_t>(source_ids.size()), threads);
      },
      "threads"_a, "source"_a, "destination"_a, "block_bytes"_a, "source_ids"_a, "destination_ids"_a);

  m.def("decode_gguf", &decode_gguf_rows, "threads"_a, "ggml_type"_a, "stored"_a, "order"_a, "codes"_a.noconvert(),
        "scales"_a.noconvert(), "minimums"_a.noconvert().none());

  nb::class_<WeightRows>(m, "WeightRows")
      .def(
          "__init__",
          [](WeightRows* self, int type, int64_t num_rows, int64_t num_inputs, int64_t stride, uintptr_t values) {
            new (self) WeightRows{static_cast<DataType>(type), num_rows, num_inputs, stride, pointer<const void>(values)};
          },
          "type"_a, "num_rows"_a, "num_inputs"_a, "stride"_a, "values"_a);
  m.def(
      "quantize_to_int8",
      [](const std::string& instruction_set, ThreadPool& threads, const WeightRows& rows, uintptr_t values, uintptr_t scales) {
        nb::gil_scoped_release unlocked;
        quantize_to_int8(select_kernels(instruction_set.c_str()), threads, rows, pointer<int8_t>(values),
                         pointer<float>(scales));
      },
      "instruction_set"_a, "threads"_a, "rows"_a, "values"_a, "scales"_a);
  m.def(
      "quantize_to_int4",
      [](const std::string& instruction_set, ThreadPool& threads, const WeightRows& rows, uintptr_t codes, uintptr_t scales,
         uintptr_t minimums) {
        nb::gil_scoped_release unlocked;
        quantize_to_int4(select_kernels(instruction_set.c_str()), threads, rows, pointer<uint8_t>(codes),
                         pointer<float>(scales), pointer<float>(minimums));
      },
      "instruction_set"_a, "threads"_a, "rows"_a, "codes"_a, "scales"_a, "minimums"_a);

  m.def("fill_groups", &fill_groups_of, "instruction_set"_a, "threads"_a, "codes"_a.noconvert(), "scales"_a.noconvert(),
        "minimums"_a.noconvert().none(), "own_codes"_a.noconvert(), "own_scales"_a.noconvert(),
        "own_minimums"_a.noconvert().none(), "row_scales"_a.noconvert());

  m.def(
      "draw_tokens",
      [](const std::string& instruction_set, ThreadPool& threads, const LogitRows& logits, const Integers& rows,
         const Floats32& temperature, const Integers& top_k, const Floats64& top_p, const Floats64& min_p, const Keys& keys,
         const Places& token_ids) {
        const size_t count = rows.size();
        if (temperature.size() != count || top_k.size() != count || top_p.size() != count || min_p.size() != count ||
            keys.shape(0) != count || keys.shape(1) != 2 || token_ids.size() != count) {
          throw std::invalid_argument("each row that is drawn needs all of its parameters, and a place for its token");
        }
        const KernelTable& kernels = select_kernels(instruction_set.c_str());
        nb::gil_scoped_release unlocked;
        draw_tokens(kernels, threads, logits.data(), static_cast<int64_t>(logits.shape(1)),
                    {static_cast<int64_t>(count), rows.data(), temperature.data(), top_k.data(), top_p.data(), min_p.data(),
                     keys.data()},
                    token_ids.data());
      },
      "instruction_set"_a, "threads"_a, "logits"_a, "rows"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "keys"_a,
      "token_ids"_a);
}
