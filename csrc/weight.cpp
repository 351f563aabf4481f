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

int64_t scales_at(const PackedWeight& form) {
  return (form.panel_bytes * form.num_panels() + SCALE_ALIGNMENT - 1) / SCALE_ALIGNMENT * SCALE_ALIGNMENT;
}

// Mapped, so zeroed, and given back to the system when freed.
std::shared_ptr<uint8_t> allocate(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  madvise(memory, size, MADV_HUGEPAGE);
#endif
  return {static_cast<uint8_t*>(memory), [size](uint8_t* p) { munmap(p, size); }};
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

int64_t num_bytes(const PackedWeight& form) {
  if (form.type != DataType::int8) return form.panel_bytes * form.num_panels();
  return scales_at(form) + form.num_panels() * PANEL * static_cast<int64_t>(sizeof(float));
}

Weight::Weight(const PlainWeight& plain) : Weight(form_of(plain), allocate(num_bytes(form_of(plain)))) {
  if (plain.type == DataType::int8) {
    std::memcpy(packed_.scales, plain.scales, static_cast<size_t>(plain.num_outputs) * 4);
  }
  const int64_t num_panels = packed_.num_panels();
#pragma omp parallel for
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    uint8_t* out = packed_.data + panel * packed_.panel_bytes;
    if (plain.type == DataType::int8) {
      pack_int8(plain, panel, packed_.panel_bytes, out);
    } else if (plain.type == DataType::float32) {
      pack_rows(plain, panel, reinterpret_cast<float*>(out));
    } else {
      pack_rows(plain, panel, reinterpret_cast<uint16_t*>(out));
    }
  }
}

Weight::Weight(const PackedWeight& form, std::shared_ptr<uint8_t> memory) : packed_(form), memory_(std::move(memory)) {
  packed_.data = memory_.get();
  packed_.scales = form.type == DataType::int8 ? reinterpret_cast<float*>(packed_.data + scales_at(form)) : nullptr;
}

}  // namespace octavo
