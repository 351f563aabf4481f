// One instruction set's table of kernels, and what this folder is: code that is compiled once for each instruction set, by the
// .cpp file of its name, with that set's options and in a namespace of its own (OCTAVO_ISA).
//
// Nothing here may instantiate a template of a library, the standard one's included: the linker keeps one copy of such a
// function for the whole program, perhaps this file's, whose instructions a lesser processor does not have.
#pragma once

#include "attention.h"
#include "pointwise.h"
#include "product.h"
#include "product_grouped.h"
#include "quantizer.h"
#include "sampling.h"

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
      OCTAVO_NAME(OCTAVO_ISA),
      BFLOAT16_FORM,
      INT8_FORM,
      GROUPED_FORM,
      product,
      grouped_product,
      quantize,
      quantize_steps,
      to_bfloat16,
      norm,
      activation,
      add,
      embedding,
      raise,
      {highest_logit, weigh, keep_at_least, race},
      {widen, weights_to_int8, weights_to_int4, largest_magnitude, quotients_to_float16},
      attention_kernels(),
  };
  return kernels;
}

}  // namespace OCTAVO_ISA
}  // namespace octavo
