#include "weight.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace octavo {
namespace {

constexpr int64_t SCALE_ALIGNMENT = 64;

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

void pack_int8(const PlainWeight& plain, int64_t panel, int64_t bytes, uint8_t* out) {
  std::memset(out, INT8_OFFSET, static_cast<size_t>(bytes));
  for (int64_t lane = 0; lane < PANEL; ++lane) {
    const int64_t output = panel * PANEL + lane;
    if (output >= plain.num_outputs) break;
    const int8_t* row = static_cast<const int8_t*>(plain.values) + output * plain.num_inputs;
    for (int64_t k = 0; k < plain.num_inputs; ++k) {
      out[k / QUAD * (PANEL * QUAD) + lane * QUAD + k % QUAD] = static_cast<uint8_t>(row[k] + INT8_OFFSET);
    }
  }
}

}  // namespace

Weight::Weight(const PlainWeight& plain, ThreadPool& threads) {
  packed_.type = plain.type;
  packed_.num_outputs = plain.num_outputs;
  packed_.num_inputs = plain.num_inputs;
  packed_.panel_bytes = panel_bytes(plain);
  const int64_t num_panels = packed_.num_panels(), values = packed_.panel_bytes * num_panels;
  const int64_t scales_at = (values + SCALE_ALIGNMENT - 1) / SCALE_ALIGNMENT * SCALE_ALIGNMENT;
  num_bytes_ = plain.type == DataType::int8 ? scales_at + num_panels * PANEL * 4 : values;
  // Mapped, so zeroed, and given back to the system when freed.
  void* memory = mmap(nullptr, static_cast<size_t>(num_bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(memory, static_cast<size_t>(num_bytes_), MADV_HUGEPAGE);
#endif
  packed_.data = static_cast<uint8_t*>(memory);
  if (plain.type == DataType::int8) {
    packed_.scales = reinterpret_cast<float*>(packed_.data + scales_at);
    std::memcpy(packed_.scales, plain.scales, static_cast<size_t>(plain.num_outputs) * 4);
  }
  threads.for_each(num_panels, [&](int64_t panel) {
    uint8_t* out = packed_.data + panel * packed_.panel_bytes;
    if (plain.type == DataType::int8) {
      pack_int8(plain, panel, packed_.panel_bytes, out);
    } else if (plain.type == DataType::float32) {
      pack_rows(plain, panel, reinterpret_cast<float*>(out));
    } else {
      pack_rows(plain, panel, reinterpret_cast<uint16_t*>(out));
    }
  });
}

Weight::~Weight() { munmap(packed_.data, static_cast<size_t>(num_bytes_)); }

}  // namespace octavo
