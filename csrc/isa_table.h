// One instruction set's table of kernels; included by each isa_*.cpp.
#pragma once

#include "attention.h"
#include "pointwise.h"
#include "product.h"

#define OCTAVO_NAME_OF(isa) #isa
#define OCTAVO_NAME(isa) OCTAVO_NAME_OF(isa)

namespace octavo {
namespace OCTAVO_ISA {

#if defined(__AVX512BF16__)
constexpr Form BFLOAT16_FORM = Form::bfloat16;
#else
constexpr Form BFLOAT16_FORM = Form::float32;
#endif

inline const KernelTable& table() {
  static const KernelTable kernels = {
      OCTAVO_NAME(OCTAVO_ISA), BFLOAT16_FORM, INT8_FORM, product, quantize, to_bfloat16, norm, activation, add, embedding, attention_kernels(),
  };
  return kernels;
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
