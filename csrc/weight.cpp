#include "weight.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace octavo {
namespace {

// Of weights, and of their scales.
constexpr int64_t ALIGNMENT = 64;
constexpr int64_t SHARED_MAP_BYTES = 32 << 20;
// Inputs of a block, at the most: a larger group becomes several of them, with the same scale.
constexpr int64_t MOST_GROUP = 4 * STEP;

int64_t aligned(int64_t bytes) { return round_up(bytes, ALIGNMENT); }

int64_t bytes_of(DataType type) {
  return type == DataType::float32 ? 4 : type == DataType::int8 ? 1 : 2;
}

// Inputs that lie together in a panel are a word, which holds a float32, two bfloat16 or four int8; a float16 is by itself.
int64_t word_bytes(DataType type) { return type == DataType::float16 ? 2 : 4; }

int64_t panel_bytes(const PlainWeight& plain) {
  return round_up(plain.num_inputs * bytes_of(plain.type), word_bytes(plain.type)) * PANEL;
}

// `lane`'s words of a panel or a block, from `num_bytes` of numbers and zeros behind them, each as `packed` makes it.
template <class Word, class Packed>
void pack_words(const uint8_t* numbers, int64_t num_bytes, int64_t lane, uint8_t* out, const Packed& packed) {
  constexpr int64_t SIZE = sizeof(Word);
  const auto pack_word = [&](int64_t begin, int64_t size) {
    Word word = 0;
    std::memcpy(&word, numbers + begin, static_cast<size_t>(size));
    word = packed(word);
    std::memcpy(out + begin * PANEL + lane * SIZE, &word, SIZE);
  };
  const int64_t whole = num_bytes / SIZE * SIZE;
  for (int64_t begin = 0; begin < whole; begin += SIZE) pack_word(begin, SIZE);
  if (whole < num_bytes) pack_word(whole, num_bytes - whole);
}

// What becomes of a word, as objects of types of their own, so that the loops over words hold them: nothing;
constexpr auto as_it_is = [](auto word) { return word; };
// INT8_OFFSET is added to four int8 numbers, which turns over the highest bit of each;
constexpr auto with_offsets = [](uint32_t numbers) { return numbers ^ 0x80808080; };
// eight codes of 4 bits become two quads, one in the low halves of the bytes, one in the high ones.
constexpr auto quads_of_codes = [](uint32_t codes) {
  const auto spread = [](uint32_t four) {  // each in a byte of its own
    four = (four | four << 8) & 0x00ff00ff;
    return (four | four << 4) & 0x0f0f0f0f;
  };
  return spread(codes & 0xffff) | spread(codes >> 16) << 4;
};

// Of every output's row, one after the other: so what is written stays in the nearest cache until it is full.
constexpr int64_t PIECE_BYTES = 512;
template <class Word, class Packed>
void pack_panel(const PlainWeight& plain, int64_t panel, uint8_t* out, const Packed& packed) {
  static constexpr uint8_t NOTHING[PIECE_BYTES] = {};
  const int64_t row_bytes = plain.num_inputs * bytes_of(plain.type);
  const auto* rows = static_cast<const uint8_t*>(plain.values);
  for (int64_t begin = 0; begin < row_bytes; begin += PIECE_BYTES) {
    const int64_t size = std::min(PIECE_BYTES, row_bytes - begin);
    for (int64_t lane = 0; lane < PANEL; ++lane) {
      const int64_t output = panel * PANEL + lane;
      const uint8_t* numbers = output < plain.num_outputs ? rows + output * row_bytes + begin : NOTHING;
      pack_words<Word>(numbers, size, lane, out + begin * PANEL, packed);
    }
  }
}

void pack(const PlainWeight& plain, int64_t panel, const PackedWeight& packed) {
  uint8_t* out = packed.data + panel * packed.panel_bytes;
  if (plain.type == DataType::int8) return pack_panel<uint32_t>(plain, panel, out, with_offsets);
  if (plain.type == DataType::float16) return pack_panel<uint16_t>(plain, panel, out, as_it_is);
  pack_panel<uint32_t>(plain, panel, out, as_it_is);
}

// The outputs of a panel.
struct Outputs {
  int64_t begin, end;
};

void pack_block_numbers(const PlainGroupedWeight& plain, Outputs outputs, int64_t begin, int64_t size, uint8_t* out) {
  const int64_t row_bytes = plain.bits == 4 ? (plain.num_inputs + 1) / 2 : plain.num_inputs;
  const uint8_t* row = plain.codes + outputs.begin * row_bytes + begin * plain.bits / 8;
  for (int64_t lane = 0; lane < outputs.end - outputs.begin; ++lane, row += row_bytes) {
    if (plain.bits == 4) {
      pack_words<uint32_t>(row, (size + 1) / 2, lane, out, quads_of_codes);
    } else {
      pack_words<uint32_t>(row, size, lane, out, with_offsets);
    }
  }
}

// Of one group, from [outputs, groups] to [outputs].
void pack_block_scales(const uint16_t* scales, Outputs outputs, int64_t num_groups, int64_t group, uint16_t* out) {
  for (int64_t output = outputs.begin; output < outputs.end; ++output) *out++ = scales[output * num_groups + group];
}

// A block's numbers, scales and minimums. Padding stays zero: its scales make nothing of it.
void pack_block(const PlainGroupedWeight& plain, const PackedWeight& packed, Outputs outputs, int64_t block, uint8_t* out) {
  const int64_t begin = block * packed.block_inputs(), size = std::min(packed.block_inputs(), plain.num_inputs - begin);
  pack_block_numbers(plain, outputs, begin, size, out);
  auto* scales = reinterpret_cast<uint16_t*>(out + packed.block_inputs() / STEP * packed.step_bytes());
  uint16_t* minimums = scales + packed.groups_a_block() * PANEL;
  const int64_t num_groups = (plain.num_inputs + plain.group - 1) / plain.group;
  for (int64_t i = 0; i < packed.groups_a_block() && i * packed.group < size; ++i) {
    const int64_t group = (begin + i * packed.group) / plain.group;
    pack_block_scales(plain.scales, outputs, num_groups, group, scales + i * PANEL);
    if (plain.minimums) pack_block_scales(plain.minimums, outputs, num_groups, group, minimums + i * PANEL);
  }
}

void pack(const PlainGroupedWeight& plain, int64_t panel, const PackedWeight& packed) {
  uint8_t* out = packed.data + panel * packed.panel_bytes;
  const Outputs outputs = {panel * PANEL, std::min((panel + 1) * PANEL, plain.num_outputs)};
  for (int64_t block = 0; block < packed.num_blocks(); ++block, out += packed.block_bytes()) {
    pack_block(plain, packed, outputs, block, out);
  }
}

int64_t scales_at(const PackedWeight& form) {
  return aligned(form.panel_bytes * form.num_panels());
}

// Zeroed, and given back to the system when freed; in large pages where it has them.
std::shared_ptr<uint8_t> map(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  return {static_cast<uint8_t*>(memory), [size](uint8_t* p) { munmap(p, size); }};
}

// Small weights share maps, as one that is no larger than a large page would get none: a step that reads all weights in
// small pages waits for the page table. A map goes with the last of its weights.
std::shared_ptr<uint8_t> allocate(int64_t bytes) {
  static std::mutex turn;
  static std::weak_ptr<uint8_t> newest;
  static int64_t used = 0;
  if (bytes > SHARED_MAP_BYTES / 2) return map(static_cast<size_t>(bytes));
  const std::lock_guard<std::mutex> lock(turn);
  std::shared_ptr<uint8_t> memory = newest.lock();
  if (!memory || used + bytes > SHARED_MAP_BYTES) {
    memory = map(SHARED_MAP_BYTES);
    newest = memory;
    used = 0;
  }
  uint8_t* taken = memory.get() + used;
  used = aligned(used + bytes);
  return {std::move(memory), taken};
}

template <class Plain>
Weight packed_copy(const Plain& plain, const float* scales, ThreadPool& threads) {
  const PackedWeight form = form_of(plain);
  Weight weight(form, allocate(num_bytes(form)));
  const PackedWeight& packed = weight.packed();
  if (scales) std::memcpy(packed.scales, scales, static_cast<size_t>(plain.num_outputs) * sizeof(float));
  threads.for_each(packed.num_panels(), [&](int64_t panel) { pack(plain, panel, packed); });
  return weight;
}

}  // namespace

PackedWeight form_of(const PlainWeight& plain) {
  PackedWeight form;
  form.type = plain.type;
  form.num_outputs = plain.num_outputs;
  form.num_inputs = plain.num_inputs;
  form.panel_bytes = panel_bytes(plain);
  return form;
}

PackedWeight form_of(const PlainGroupedWeight& plain) {
  if ((plain.bits != 4 && plain.bits != 8) || (plain.group != HALF_STEP && (plain.group <= 0 || plain.group % STEP != 0))) {
    throw std::invalid_argument("grouped weights are of 4 or 8 bits, in groups of 16 inputs or of a multiple of 32");
  }
  PackedWeight form;
  form.type = DataType::int8;
  form.num_outputs = plain.num_outputs;
  form.num_inputs = plain.num_inputs;
  form.group = plain.group == HALF_STEP ? HALF_STEP : std::gcd(plain.group, MOST_GROUP);
  form.bits = plain.bits;
  form.has_minimums = plain.minimums != nullptr;
  const int zero = form.has_minimums ? 0 : 8;
  for (int code = 0; code < 16; ++code) {
    form.table[code] = static_cast<uint8_t>((plain.table ? plain.table[code] : code - zero) + INT8_OFFSET);
  }
  form.panel_bytes = form.num_blocks() * form.block_bytes();
  return form;
}

int64_t num_bytes(const PackedWeight& form) {
  if (form.type != DataType::int8) return form.panel_bytes * form.num_panels();
  return scales_at(form) + form.num_panels() * PANEL * static_cast<int64_t>(sizeof(float));
}

Weight::Weight(const PlainWeight& plain, ThreadPool& threads) : Weight(packed_copy(plain, plain.scales, threads)) {}

Weight::Weight(const PlainGroupedWeight& plain, ThreadPool& threads)
    : Weight(packed_copy(plain, plain.row_scales, threads)) {}

Weight::Weight(const PackedWeight& form, std::shared_ptr<uint8_t> memory) : packed_(form), memory_(std::move(memory)) {
  packed_.data = memory_.get();
  packed_.scales = form.type == DataType::int8 ? reinterpret_cast<float*>(packed_.data + scales_at(form)) : nullptr;
}

}  // namespace octavo
