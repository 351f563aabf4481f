#include "operation.h"

#include <stdexcept>

namespace octavo {
namespace {

std::map<std::string, AddToProgram>& operations() {
  static std::map<std::string, AddToProgram> known;
  return known;
}

}  // namespace

SharedWeight Arguments::weight(const std::string& name) const {
  const auto weights = get<std::vector<SharedWeight>>(name);
  if (weights.size() != 1) refuse(name, "is not one weight");
  return weights[0];
}

const Arguments& Arguments::fields(const std::string& name) const {
  const Value& value = at(name);
  const auto* found = std::get_if<std::shared_ptr<const Arguments>>(&value);
  if (!found) refuse(name, "has no fields");
  return **found;
}

const Arguments::Value& Arguments::at(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) refuse(name, "is not given");
  return found->second;
}

void Arguments::refuse(const std::string& name, const char* why) {
  throw std::invalid_argument("the argument '" + name + "' " + why);
}

Operation::Operation(const char* name, AddToProgram add) { operations()[name] = add; }

void add_operation(const std::string& name, const Call& call) {
  const auto found = operations().find(name);
  if (found == operations().end()) throw std::invalid_argument("the C++ kernels have no operation '" + name + "'");
  found->second(call);
}

}  // namespace octavo
