#include "gguf_blocks.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "float16.h"

namespace octavo {
namespace {

// What a task decodes: enough for some ten microseconds.
constexpr int64_t BYTES_A_TASK = 1 << 16;

// A float16, as bytes since blocks lie anywhere.
struct Half {
  uint8_t low, high;

  float value() const { return f16_float(static_cast<uint16_t>(low | high << 8)); }
};

// Codes under 16 of two bytes -> in one, the first in its low half.
uint8_t joined(uint16_t codes) { return static_cast<uint8_t>(codes | codes >> 4); }

// The bytes 2i and 2i + 1: loops over pairs are vectorized as 16-bit numbers.
uint16_t pair(const uint8_t* bytes, int64_t i) { return static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8); }

// WIDTH bytes with code i in the low half of byte i and code WIDTH + i in the high one -> codes 2i and 2i + 1 in byte i.
template <int WIDTH>
void pair_halves(const uint8_t* halves, uint8_t* codes) {
  for (int i = 0; i < WIDTH / 2; ++i) {
    const uint16_t both = pair(halves, i);
    codes[i] = joined(both & 0x0f0f);
    codes[WIDTH / 2 + i] = joined(both >> 4 & 0x0f0f);
  }
}

// The eight scales and eight minimums of Q4_K and Q5_K, of 6 bits each: the low bits of the first four of each, with the
// high bits of the last four above them, and then the low bits of those.
void scale_by_six_bits(const uint8_t* packed, Half scale, Half minimum, Decoded out) {
  const uint8_t *firsts = packed, *first_minimums = packed + 4, *lasts = packed + 8;
  const float each = scale.value(), each_minimum = minimum.value();
  for (int i = 0; i < 4; ++i) {
    out.scales[i] = each * static_cast<float>(firsts[i] & 63);
    out.scales[4 + i] = each * static_cast<float>((lasts[i] & 15) | (firsts[i] >> 2 & 48));
    out.minimums[i] = each_minimum * static_cast<float>(first_minimums[i] & 63);
    out.minimums[4 + i] = each_minimum * static_cast<float>(lasts[i] >> 4 | (first_minimums[i] >> 2 & 48));
  }
}

// Blocks as ggml lays them out (`block_q4_0` and so on in ggml-common.h). Those of 32 numbers are one group; those of 256
// have a small integer for each group, beside a common float16. A byte of `halves` has two parts of 4 bits, of `quarters`
// four of 2, of `bits` eight.

struct Q4_0 {
  static constexpr int64_t code_bytes = 16, num_groups = 1;
  static constexpr bool has_minimums = false;
  Half scale;
  uint8_t halves[16];

  void decode(Decoded out) const {
    pair_halves<16>(halves, out.codes);
    out.scales[0] = scale.value();
  }
};

struct Q4_1 {
  static constexpr int64_t code_bytes = 16, num_groups = 1;
  static constexpr bool has_minimums = true;
  Half scale, lowest;
  uint8_t halves[16];

  void decode(Decoded out) const {
    pair_halves<16>(halves, out.codes);
    out.scales[0] = scale.value();
    out.minimums[0] = -lowest.value();
  }
};

// 32 codes of 5 bits, less some number: first those of the low halves, then those of the high ones.
void join_five_bits(const uint8_t* halves, const uint8_t* bits, int less, uint8_t* codes) {
  const uint32_t fifth = bits[0] | bits[1] << 8 | bits[2] << 16 | static_cast<uint32_t>(bits[3]) << 24;
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<uint8_t>(((halves[i] & 15) | (fifth >> i & 1) << 4) - less);
    codes[16 + i] = static_cast<uint8_t>((halves[i] >> 4 | (fifth >> (16 + i) & 1) << 4) - less);
  }
}

struct Q5_0 {
  static constexpr int64_t code_bytes = 32, num_groups = 1;
  static constexpr bool has_minimums = false;
  Half scale;
  uint8_t bits[4], halves[16];

  void decode(Decoded out) const {
    join_five_bits(halves, bits, 16, out.codes);
    out.scales[0] = scale.value();
  }
};

struct Q5_1 {
  static constexpr int64_t code_bytes = 32, num_groups = 1;
  static constexpr bool has_minimums = true;
  Half scale, lowest;
  uint8_t bits[4], halves[16];

  void decode(Decoded out) const {
    join_five_bits(halves, bits, 0, out.codes);
    out.scales[0] = scale.value();
    out.minimums[0] = -lowest.value();
  }
};

struct Q8_0 {
  static constexpr int64_t code_bytes = 32, num_groups = 1;
  static constexpr bool has_minimums = false;
  Half scale;
  uint8_t codes[32];

  void decode(Decoded out) const {
    std::memcpy(out.codes, codes, sizeof codes);
    out.scales[0] = scale.value();
  }
};

struct Q2_K {
  static constexpr int64_t code_bytes = 128, num_groups = 16;
  static constexpr bool has_minimums = true;
  uint8_t scales[16];  // the minimums in the high halves
  uint8_t quarters[64];
  Half scale, minimum;

  void decode(Decoded out) const {
    for (int run = 0; run < 2; ++run) {
      for (int quarter = 0; quarter < 4; ++quarter) {
        uint8_t* codes = out.codes + run * 64 + quarter * 16;
        for (int i = 0; i < 16; ++i) codes[i] = joined(pair(quarters + run * 32, i) >> (2 * quarter) & 0x0303);
      }
    }
    const float each = scale.value(), each_minimum = minimum.value();
    for (int i = 0; i < 16; ++i) {
      out.scales[i] = each * static_cast<float>(scales[i] & 15);
      out.minimums[i] = each_minimum * static_cast<float>(scales[i] >> 4);
    }
  }
};

struct Q3_K {
  static constexpr int64_t code_bytes = 128, num_groups = 16;
  static constexpr bool has_minimums = false;
  uint8_t bits[32], quarters[64];
  uint8_t scale_halves[8], scale_quarters[4];
  Half scale;

  void decode(Decoded out) const {
    for (int run = 0; run < 2; ++run) {
      for (int quarter = 0; quarter < 4; ++quarter) {
        uint8_t* codes = out.codes + run * 64 + quarter * 16;
        const int bit = run * 4 + quarter;
        for (int i = 0; i < 16; ++i) {
          const int low = pair(quarters + run * 32, i) >> (2 * quarter) & 0x0303, high = pair(bits, i) >> bit & 0x0101;
          // A number is its two bits, less 4 where the third is 0; as a code it has 8 added.
          codes[i] = joined(static_cast<uint16_t>(low + 4 * high + 0x0404));
        }
      }
    }
    const float each = scale.value();
    for (int i = 0; i < 16; ++i) {
      const int low = i < 8 ? scale_halves[i] & 15 : scale_halves[i - 8] >> 4;
      const int high = scale_quarters[i % 4] >> (i / 4 * 2) & 3;
      out.scales[i] = each * static_cast<float>((low | high << 4) - 32);
    }
  }
};

struct Q4_K {
  static constexpr int64_t code_bytes = 128, num_groups = 8;
  static constexpr bool has_minimums = true;
  Half scale, minimum;
  uint8_t scales[12], halves[128];

  void decode(Decoded out) const {
    for (int run = 0; run < 4; ++run) pair_halves<32>(halves + run * 32, out.codes + run * 32);
    scale_by_six_bits(scales, scale, minimum, out);
  }
};

struct Q5_K {
  static constexpr int64_t code_bytes = 256, num_groups = 8;
  static constexpr bool has_minimums = true;
  Half scale, minimum;
  uint8_t scales[12], bits[32], halves[128];

  void decode(Decoded out) const {
    for (int run = 0; run < 4; ++run) {
      const uint8_t* own = halves + run * 32;
      uint8_t* codes = out.codes + run * 64;
      for (int i = 0; i < 32; ++i) {
        const int fifths = bits[i] >> (2 * run);
        codes[i] = static_cast<uint8_t>((own[i] & 15) | (fifths & 1) << 4);
        codes[32 + i] = static_cast<uint8_t>(own[i] >> 4 | (fifths & 2) << 3);
      }
    }
    scale_by_six_bits(scales, scale, minimum, out);
  }
};

struct Q6_K {
  static constexpr int64_t code_bytes = 256, num_groups = 16;
  static constexpr bool has_minimums = false;
  uint8_t halves[128], quarters[64];
  int8_t scales[16];
  Half scale;

  void decode(Decoded out) const {
    for (int run = 0; run < 2; ++run) {
      for (int quarter = 0; quarter < 4; ++quarter) {
        const uint8_t *low = halves + run * 64 + quarter % 2 * 32, *high = quarters + run * 32;
        const int shift = quarter / 2 * 4;
        uint8_t* codes = out.codes + run * 128 + quarter * 32;
        for (int i = 0; i < 32; ++i) {
          codes[i] = static_cast<uint8_t>(((low[i] >> shift & 15) | (high[i] >> (2 * quarter) & 3) << 4) - 32);
        }
      }
    }
    const float each = scale.value();
    for (int i = 0; i < 16; ++i) out.scales[i] = each * static_cast<float>(scales[i]);
  }
};

struct IQ4_XS {
  static constexpr int64_t code_bytes = 128, num_groups = 8;
  static constexpr bool has_minimums = false;
  Half scale;
  uint8_t scale_quarters[2], scale_halves[4];
  uint8_t halves[128];

  void decode(Decoded out) const {
    const float each = scale.value();
    for (int i = 0; i < 8; ++i) {
      pair_halves<16>(halves + i * 16, out.codes + i * 16);
      const int low = scale_halves[i / 2] >> (i % 2 * 4) & 15, high = scale_quarters[i / 4] >> (i % 4 * 2) & 3;
      out.scales[i] = each * static_cast<float>((low | high << 4) - 32);
    }
  }
};

struct MXFP4 {
  static constexpr int64_t code_bytes = 16, num_groups = 1;
  static constexpr bool has_minimums = false;
  uint8_t exponent;  // 2^(exponent - 128): half of what it says elsewhere, as the table's numbers are doubled
  uint8_t halves[16];

  void decode(Decoded out) const {
    pair_halves<16>(halves, out.codes);
    out.scales[0] = bits_float(exponent < 2 ? 0x200000u << exponent : (exponent - 1u) << 23);  // below, subnormal
  }
};

template <class Block>
void decode_blocks(const uint8_t* stored, int64_t num_blocks, Decoded out) {
  const auto* blocks = reinterpret_cast<const Block*>(stored);
  for (int64_t i = 0; i < num_blocks; ++i) {
    blocks[i].decode(out);
    out.codes += Block::code_bytes;
    out.scales += Block::num_groups;
    if (Block::has_minimums) out.minimums += Block::num_groups;
  }
}

template <class Block>
const BlockType& described() {
  static_assert(alignof(Block) == 1, "blocks lie anywhere");
  static constexpr BlockType type{sizeof(Block), Block::code_bytes, Block::num_groups, Block::has_minimums,
                                  &decode_blocks<Block>};
  return type;
}

}  // namespace

const BlockType& block_type(int64_t ggml_type) {
  switch (ggml_type) {
    case 2: return described<Q4_0>();
    case 3: return described<Q4_1>();
    case 6: return described<Q5_0>();
    case 7: return described<Q5_1>();
    case 8: return described<Q8_0>();
    case 10: return described<Q2_K>();
    case 11: return described<Q3_K>();
    case 12: return described<Q4_K>();
    case 13: return described<Q5_K>();
    case 14: return described<Q6_K>();
    case 20: return described<Q4_0>();  // IQ4_NL: the same, but for what its codes stand for
    case 23: return described<IQ4_XS>();
    case 39: return described<MXFP4>();
  }
  throw std::invalid_argument("blocks of ggml's type " + std::to_string(ggml_type) + " don't become groups");
}

void decode_gguf(ThreadPool& threads, const BlockType& type, const uint8_t* stored, int64_t blocks_a_row, const int64_t* order,
                 int64_t num_rows, const Decoded& out) {
  const int64_t row_bytes = blocks_a_row * type.block_bytes, num_groups = blocks_a_row * type.num_groups;
  const int64_t rows_a_task = std::max<int64_t>(1, BYTES_A_TASK / std::max<int64_t>(1, row_bytes));
  threads.for_each((num_rows + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
    const int64_t end = std::min(num_rows, (task + 1) * rows_a_task);
    for (int64_t row = task * rows_a_task; row < end; ++row) {
      type.decode(stored + order[row] * row_bytes, blocks_a_row,
                  {out.codes + row * blocks_a_row * type.code_bytes, out.scales + row * num_groups,
                   type.has_minimums ? out.minimums + row * num_groups : nullptr});
    }
  });
}

}  // namespace octavo
