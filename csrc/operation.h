// How an operation comes into a program. src/octavo/kernels/operations.py declares it; a model's call of it comes here by its name,
// with its arguments by theirs, and the operation's own file in ops/ makes Ops of them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "kernels.h"
#include "program.h"
#include "weight.h"

namespace octavo {

// A weight that Python holds, too: a model's layers may share it.
using SharedWeight = std::shared_ptr<const Weight>;

// Float32 values that Python made: a vector, which is one row, or a table. They live as long as a copy of this does.
struct Floats {
  std::shared_ptr<const float> data;  // null where the argument is None
  int64_t num_rows = 0;
  int64_t num_columns = 0;
};

// A function of Python's that overwrites [num_rows, width] floats. It may throw.
using Callback = std::function<void(float* data, int64_t num_rows, int64_t width)>;

// What an operation is called with, by name. An argument of several fields is Arguments itself.
class Arguments {
 public:
  using Value = std::variant<std::monostate, bool, int64_t, double, std::string, Buffer*, std::vector<SharedWeight>,
                             Floats, Callback, std::shared_ptr<const Arguments>>;

  explicit Arguments(std::map<std::string, Value> values) : values_(std::move(values)) {}

  // Throws std::invalid_argument where there is no such argument, or one of another type.
  template <class T>
  T get(const std::string& name) const {
    const Value& value = at(name);
    if (const T* found = std::get_if<T>(&value)) return *found;
    if constexpr (std::is_same_v<T, double>) {
      if (const int64_t* whole = std::get_if<int64_t>(&value)) return static_cast<double>(*whole);
    }
    refuse(name, "is of another type");
  }
  // The same, or `otherwise` where the argument is None.
  template <class T>
  T get_or(const std::string& name, T otherwise) const {
    return std::holds_alternative<std::monostate>(at(name)) ? otherwise : get<T>(name);
  }
  // Of an argument that is one weight.
  SharedWeight weight(const std::string& name) const;
  // Of an argument that has fields.
  const Arguments& fields(const std::string& name) const;

 private:
  const Value& at(const std::string& name) const;
  [[noreturn]] static void refuse(const std::string& name, const char* why);

  std::map<std::string, Value> values_;
};

// A model's call of an operation.
struct Call {
  Program& program;
  const KernelTable& kernels;
  const Arguments& arguments;
  const std::vector<Buffer*>& results;  // new buffers, of the widths that the declaration gives
};

// Adds what a call computes to its program. Throws std::invalid_argument where the arguments don't fit one another.
using AddToProgram = void (*)(const Call& call);

// An object of this, at a file's end, makes an operation known.
struct Operation {
  Operation(const char* name, AddToProgram add);
};

// Throws std::invalid_argument where the operation is unknown, and what it throws itself.
void add_operation(const std::string& name, const Call& call);

}  // namespace octavo
