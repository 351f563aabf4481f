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

int64_t aligned(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

int64_t panel_bytes(const PlainWeight& plain) {
  switch (plain.type) {
    case DataType::float32:
      return plain.num_inputs * PANEL * 4;
    case DataType::int8:
      return (plain.num_inputs + QUAD - 1) / QUAD * QUAD * PANEL;
    case DataType::bfloat16:
      return (plain.num_inputs + PAIR - 1) / PAIR * PAIR * PANEL * 2;
    default:
      return plain.num_inputs * PANEL * 2;
  }
}

template <class T>
void pack_rows(const PlainWeight& plain, int64_t panel, T* out) {
  for (int64_t lane = 0; lane < PANEL; ++lane) {
    const int64_t output = panel * PANEL + lane;
    if (output >= plain.num_outputs) break;
    const T* row = static_cast<const T*>(plain.values) + output * plain.num_inputs;
    if (plain.type == DataType::bfloat16) {
      for (int64_t k = 0; k < plain.num_inputs; ++k) out[k / PAIR * (PANEL * PAIR) + lane * PAIR + k % PAIR] = row[k];
    } else {
      for (int64_t k = 0; k < plain.num_inputs; ++k) out[k * PANEL + lane] = row[k];
    }
  }
}

// Quads of `lane` in a panel or a block, from up to `size` numbers.
void pack_numbers(const int8_t* numbers, int64_t size, int64_t lane, uint8_t* out) {
  for (int64_t k = 0; k < size; ++k) {
    out[k / QUAD * (PANEL * QUAD) + lane * QUAD + k % QUAD] = static_cast<uint8_t>(numbers[k] + INT8_OFFSET);
  }
}

void pack_int8(const PlainWeight& plain, int64_t panel, int64_t bytes, uint8_t* out) {
  std::memset(out, INT8_OFFSET, static_cast<size_t>(bytes));
  for (int64_t lane = 0; lane < PANEL; ++lane) {
    const int64_t output = panel * PANEL + lane;
    if (output >= plain.num_outputs) break;
    const int8_t* row = static_cast<const int8_t*>(plain.values) + output * plain.num_inputs;
    pack_numbers(row, plain.num_inputs, lane, out);
  }
}

void pack(const PlainWeight& plain, int64_t panel, const PackedWeight& packed) {
  uint8_t* out = packed.data + panel * packed.panel_bytes;
  switch (plain.type) {
    case DataType::int8: return pack_int8(plain, panel, packed.panel_bytes, out);
    case DataType::float32: return pack_rows(plain, panel, reinterpret_cast<float*>(out));
    default: return pack_rows(plain, panel, reinterpret_cast<uint16_t*>(out));
  }
}

// Four codes of 4 bits, each in a byte of its own.
uint32_t spread(uint32_t codes) {
  codes = (codes | codes << 8) & 0x00ff00ff;
  return (codes | codes << 4) & 0x0f0f0f0f;
}

// Two quads a word of `lane` in a block, from up to `size` codes, two a byte.
void pack_codes(const uint8_t* codes, int64_t size, int64_t lane, uint8_t* out) {
  constexpr int64_t CODES_A_WORD = 2 * QUAD;
  for (int64_t k = 0; k < size; k += CODES_A_WORD, out += PANEL * QUAD) {
    uint32_t word = 0;
    std::memcpy(&word, codes + k / 2, static_cast<size_t>(std::min((size - k + 1) / 2, QUAD)));
    const uint32_t packed = spread(word & 0xffff) | spread(word >> 16) << 4;
    std::memcpy(out + lane * QUAD, &packed, sizeof packed);
  }
}

// A block's numbers, scales and minimums, those of an output. Padding stays zero: its scales make nothing of it.
void pack_block(const PlainGroupedWeight& plain, const PackedWeight& packed, int64_t output, int64_t block, uint8_t* out) {
  const int64_t lane = output % PANEL, begin = block * packed.block_inputs();
  const int64_t size = std::min(packed.block_inputs(), plain.num_inputs - begin);
  if (plain.bits == 4) {
    pack_codes(plain.codes + output * ((plain.num_inputs + 1) / 2) + begin / 2, size, lane, out);
  } else {
    pack_numbers(reinterpret_cast<const int8_t*>(plain.codes) + output * plain.num_inputs + begin, size, lane, out);
  }
  auto* scales = reinterpret_cast<uint16_t*>(out + packed.block_inputs() / STEP * packed.step_bytes());
  const int64_t num_groups = (plain.num_inputs + plain.group - 1) / plain.group;
  for (int64_t group = 0; group < packed.groups_a_block() && group * packed.group < size; ++group) {
    const int64_t from = output * num_groups + (begin + group * packed.group) / plain.group, to = group * PANEL + lane;
    scales[to] = plain.scales[from];
    if (plain.minimums) scales[packed.groups_a_block() * PANEL + to] = plain.minimums[from];
  }
}

void pack(const PlainGroupedWeight& plain, int64_t panel, const PackedWeight& packed) {
  uint8_t* out = packed.data + panel * packed.panel_bytes;
  const int64_t end = std::min((panel + 1) * PANEL, plain.num_outputs);
  for (int64_t block = 0; block < packed.num_blocks(); ++block, out += packed.block_bytes()) {
    for (int64_t output = panel * PANEL; output < end; ++output) pack_block(plain, packed, output, block, out);
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
