// The kernels that exist once for each instruction set, as tables of functions, and the choice between the tables.
// Everything here is plain data and pointers, as the files compiled for an instruction set need it (isa/table.h).
#pragma once

#include <cstdint>
#include <limits>

#include "attention_kernels.h"

namespace octavo {

constexpr int64_t round_up(int64_t size, int64_t whole) { return (size + whole - 1) / whole * whole; }

// Outputs of a packed weight that lie together.
constexpr int64_t PANEL = 32;
// The form in which a product takes its activations: float32, rounded to bfloat16, or quantized to 8 bits, as they are or
// with magnitudes and signs apart; `grouped`, with a scale for each STEP inputs in place of GROUP.
enum class Form { float32, bfloat16, int8, int8_split, grouped, grouped_split };

// Inputs of a bfloat16 and of an int8 weight that lie together: what one dot-product instruction takes.
constexpr int64_t PAIR = 2;
constexpr int64_t QUAD = 4;
// An int8 weight is stored plus this, as the dot-product instruction wants one of its two sides unsigned.
constexpr int INT8_OFFSET = 128;
// What the largest of the numbers that share an int8 scale becomes. Symmetric: -128 is not used.
constexpr float INT8_LARGEST = 127.0f;
// Inputs whose activations share a scale in an int8 product. A token's activations have outliers: with one scale for all
// of them SmolLM2's perplexity rises by 3 %, with one for 64 by less than 1.
constexpr int64_t GROUP = 96;
// The same in a product with a grouped weight, which multiplies so many inputs in a step.
constexpr int64_t STEP = 32;
constexpr int64_t QUADS_A_STEP = STEP / QUAD;
// The smallest group of inputs that share a scale in a grouped weight; larger ones are of whole steps.
constexpr int64_t HALF_STEP = STEP / 2;

// What a grouped product knows of a row's activations in a step; their int8 follow it. value = scale * int8.
struct StepScales {
  float scale;
  float shift;             // -SUM_OFFSET * scale
  int32_t start;           // what the step's integer sums start at, as float32 bits with SUM_OFFSET
  float minus_sum;         // of the values
  int32_t half_starts[2];  // the same of half steps
  float minus_half_sums[2];
};
// A grouped product's integer sums are kept as the lowest bits of a float32: 1.5 * 2^23 + sum, for |sum| < 2^22. So one
// multiply-add converts and scales them, exactly as conversion and multiplication would where `scale` has two zeros at its end.
constexpr float SUM_OFFSET = 12582912.0f;
constexpr int32_t SUM_OFFSET_BITS = 0x4b400000;
constexpr uint32_t SCALE_BITS = 0xfffffffc;
// What the split form has of a step besides, for weights whose codes are multiplied as they are: its activations, and the
// sums of each half.
struct PlainStep {
  int32_t half_sums[2];
  int8_t values[STEP];
};

// A weight [num_outputs, num_inputs] cut into panels of 32 outputs, the last one padded with zeros. Within a panel the
// inputs follow one another, and for each input its 32 outputs:
//   float32, float16  [num_inputs][32]
//   bfloat16          [num_inputs / 2][32][2], inputs padded to whole pairs: what a dot-product instruction takes, and what
//                     a shift and a mask widen
//   int8              [num_inputs / 4][32][4], inputs padded to whole quads, each value plus INT8_OFFSET
//
// A grouped weight is int8 with scales of its own for each group of inputs, and maybe minimums:
//   weight = row scale * (group's scale * number - group's minimum)
// Its panel is one stream of blocks: of one group, or of two of HALF_STEP inputs. A block has
//   8 bits            [block_inputs / 4][32][4], each number plus INT8_OFFSET
//   4 bits            [block_inputs / 8][32][4], the quad 2q in the low halves of the bytes, 2q + 1 in the high ones; numbers
//                     by `table`, plus INT8_OFFSET
//   scales            [groups a block][32] float16
//   minimums          [groups a block][32] float16, where it has them
struct PackedWeight {
  DataType type = DataType::float32;
  int64_t num_outputs = 0;
  int64_t num_inputs = 0;
  int64_t panel_bytes = 0;
  uint8_t* data = nullptr;
  float* scales = nullptr;  // int8: [num_outputs padded to 32]
  int64_t group = 0;        // grouped: inputs that share a scale; 0: the weight has none but a scale for each output
  int64_t bits = 8;         // grouped: 4 or 8
  bool has_minimums = false;
  uint8_t table[16] = {};   // 4 bits: the number that each code stands for, plus INT8_OFFSET

  bool is_grouped() const { return group > 0; }
  // Whether numbers of 4 bits are the codes plus the number of code 0.
  bool has_plain_codes() const {
    bool is_plain = bits == 4;
    for (int code = 1; code < 16; ++code) is_plain = is_plain && table[code] == table[0] + code;
    return is_plain;
  }
  int64_t block_inputs() const { return group < STEP ? STEP : group; }
  int64_t groups_a_block() const { return block_inputs() / group; }
  int64_t num_steps() const { return (num_inputs + STEP - 1) / STEP; }
  int64_t num_blocks() const { return (num_inputs + block_inputs() - 1) / block_inputs(); }
  int64_t step_bytes() const { return STEP * PANEL * bits / 8; }
  int64_t block_bytes() const {
    return block_inputs() / STEP * step_bytes() + groups_a_block() * PANEL * 2 * (has_minimums ? 2 : 1);
  }
  int64_t num_groups() const { return (num_inputs + GROUP - 1) / GROUP; }
  int64_t num_panels() const { return (num_outputs + PANEL - 1) / PANEL; }
  const uint8_t* panel(int64_t index) const { return data + index * panel_bytes; }
};

// out[row, output] = sum over inputs of x[row, input] * weight[output, input] (+ bias[output]).
struct Product {
  const PackedWeight* weight = nullptr;
  const float* bias = nullptr;      // [num_outputs] or null
  const float* x = nullptr;         // float32 form: [rows, x_stride]
  int64_t x_stride = 0;
  const uint8_t* values = nullptr;  // other forms: [rows, values_stride bytes], zeros past num_inputs
  int64_t values_stride = 0;
  const float* scales = nullptr;    // int8: [rows, groups]
  const int32_t* starts = nullptr;  // int8: [rows, groups], what the group's integer sums start at
  const int64_t* rows = nullptr;    // which rows of x to take, or null for all in order
  float* out = nullptr;             // [rows, out_stride]
  int64_t out_stride = 0;
};

// Of a row: (x - mean) / sqrt(variance + eps) * weight + bias where `centred` (layer norm), else x / sqrt(mean of squares
// + eps) * weight + bias (RMS norm).
struct Norm {
  const float* hidden = nullptr;    // [size]
  const float* residual = nullptr;  // [size] or null
  const float* weight = nullptr;    // [size] or null: 1
  const float* bias = nullptr;      // [size] or null
  float* normalised = nullptr;      // [size]
  float* sum = nullptr;             // [size]: hidden + residual; may be `residual`
  int64_t size = 0;
  float eps = 0;
  bool centred = false;
};

// As octavo.kernels.operations.ActivationKind: gelu is exact, with the error function; gelu_tanh its usual approximation.
enum class Activation { relu, gelu, gelu_tanh, silu };

// The highest of some values.
struct Peak {
  float value = -std::numeric_limits<float>::infinity();
  int64_t place = 0;      // of the first of equals
  bool is_finite = true;  // whether all values are; else the place means nothing
};

// Vectors of weights whose highest are told lane by lane.
constexpr int64_t VECTORS_A_MAXIMUM = 16;

// What drawing a token does to a row of logits (isa/sampling.h). `weights` are padded to whole vectors.
struct SamplingKernels {
  float (*highest_logit)(const float* logits, int64_t size);
  double (*weigh)(const float* logits, int64_t size, float highest, float temperature, float* weights, float* maxima);
  int64_t (*keep_at_least)(const float* weights, int64_t size, float floor, float* kept);
  int64_t (*race)(const float* weights, int64_t size, float floor, const uint32_t* key);
};

// What quantizing weights does to a row of them (isa/quantizer.h).
struct QuantizerKernels {
  // `row` [size] of float32, bfloat16 or float16 -> out [size].
  void (*widen)(DataType type, const void* row, int64_t size, float* out);
  // values [size] with one scale.
  void (*to_int8)(const float* row, int64_t size, int8_t* values, float* scale);
  // codes [num_groups][STEP / 2], scales and minimums [num_groups]; `row` has zeros up to a multiple of LANES groups.
  void (*to_int4)(const float* row, int64_t num_groups, uint8_t* codes, float* scales, float* minimums);
  // The largest magnitude of some numbers.
  float (*largest)(const float* values, int64_t size);
  // values / divisor, as float16.
  void (*to_float16)(const float* values, float divisor, int64_t size, uint16_t* out);
};

// Rows [row_begin, row_end) of the outputs in panels [panel_begin, panel_end). An output does not depend on the cut: each is
// one sum over its inputs in their order. `panel_next` is where the thread will probably go on: meanwhile these weights are
// brought nearer.
using ProductFunction = void (*)(const Product&, int64_t row_begin, int64_t row_end, int64_t panel_begin, int64_t panel_end,
                                 int64_t panel_next);

struct KernelTable {
  ProductFunction product_with(const PackedWeight& weight) const { return weight.is_grouped() ? grouped_product : product; }
  Form form_for(const PackedWeight& weight) const {
    if (weight.is_grouped()) return grouped_form;
    return weight.type == DataType::int8 ? int8_form : weight.type == DataType::bfloat16 ? bfloat16_form : Form::float32;
  }

  const char* name;
  Form bfloat16_form;  // what products with bfloat16 weights take
  Form int8_form;      // and with int8 weights
  Form grouped_form;   // and with grouped ones
  ProductFunction product;
  ProductFunction grouped_product;
  // One row to `int8_form`, each group with the scale max|x| / 127, rounded to nearest even; zeros up to whole groups.
  void (*quantize)(const float* x, int64_t size, uint8_t* values, float* scales, int32_t* starts);
  // One row to `grouped_form`, in the same way; zeros up to whole steps.
  void (*quantize_steps)(const float* x, int64_t size, uint8_t* values);
  // One row to bfloat16, padded with zeros to `padded_size`.
  void (*to_bfloat16)(const float* x, int64_t size, uint16_t* values, int64_t padded_size);
  void (*norm)(const Norm&);
  // out = activation(x) * factor; a null factor is 1.
  void (*activation)(Activation kind, const float* x, const float* factor, float* out, int64_t size);
  void (*add)(const float* a, const float* b, float* out, int64_t size);
  // A row of a table, times `scale`.
  void (*embedding)(const PackedWeight&, int64_t row, float scale, float* out);
  // Raises a peak to the highest of more values, which lie at `place` and behind it.
  void (*raise)(const float* x, int64_t size, int64_t place, Peak* peak);
  SamplingKernels sampling;
  QuantizerKernels quantizer;
  AttentionKernels attention;
};

const KernelTable& portable_kernels();
#if defined(__x86_64__)
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
const KernelTable& avx512vbmi_kernels();
const KernelTable& avx512bf16_kernels();
#endif
#if defined(OCTAVO_HAS_AMX)
const KernelTable& amx_kernels();
#endif

// The best table for this processor, or the one named ("amx", "avx512bf16", "avx512vbmi", "avx512", "avx2", "portable").
// Throws std::invalid_argument where the name is unknown or the processor cannot run it.
const KernelTable& select_kernels(const char* name);

}  // namespace octavo
