// The kinds of activation by the names that src/octavo/kernels/operations.py gives them.
#pragma once

#include <string>

#include "../kernels.h"

namespace octavo {

// Throws std::invalid_argument where the name is unknown.
Activation activation_named(const std::string& name);

}  // namespace octavo
