#include "likeliest.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "../product_cut.h"

namespace octavo {
namespace {

// Logits that a thread holds at a time.
constexpr int64_t BLOCK_OF_LOGITS = 64 << 10;

// Some panels of a weight, as a weight.
PackedWeight part_of(const PackedWeight& weight, const Cut::Range& panels) {
  PackedWeight part = weight;
  part.data = weight.data + panels.begin * weight.panel_bytes;
  if (weight.scales) part.scales = weight.scales + panels.begin * PANEL;
  part.num_outputs = std::min(weight.num_outputs, panels.end * PANEL) - panels.begin * PANEL;
  return part;
}

// Panels that are multiplied at once: whole groups of those that go through a kernel together.
int64_t panels_a_block(int64_t num_rows) {
  const int64_t fit = BLOCK_OF_LOGITS / static_cast<int64_t>(sizeof(float)) / (num_rows * PANEL);
  return std::max<int64_t>(1, fit / PANELS_TOGETHER) * PANELS_TOGETHER;
}

// The peaks [rows] of a task's outputs, block after block.
void find_peaks(const KernelTable& kernels, Product product, const Cut& cut, int64_t task, Peak* peaks) {
  const Cut::Range rows = cut.rows(task), panels = cut.panels(task);
  const PackedWeight& weight = *product.weight;
  const int64_t num_rows = rows.end - rows.begin, at_once = panels_a_block(num_rows);
  const std::unique_ptr<float[]> logits(new float[static_cast<size_t>(num_rows * at_once * PANEL)]);
  product.rows += rows.begin;
  product.out = logits.get();
  for (int64_t begin = panels.begin; begin < panels.end; begin += at_once) {
    const Cut::Range block{begin, std::min(panels.end, begin + at_once)};
    const PackedWeight part = part_of(weight, block);
    product.weight = &part;
    product.out_stride = part.num_outputs;
    const int64_t next = block.end < panels.end ? block.end : cut.panels_after(task);
    kernels.product_with(part)(product, 0, num_rows, 0, block.end - begin, next - begin);
    for (int64_t row = 0; row < num_rows; ++row) {
      kernels.raise(product.out + row * part.num_outputs, part.num_outputs, begin * PANEL, &peaks[rows.begin + row]);
    }
  }
}

}  // namespace

void find_likeliest(const KernelTable& kernels, const PackedWeight& weight, const Buffer& in, const int64_t* rows,
                    int64_t num_rows, int64_t* places, ThreadPool& threads) {
  if (num_rows == 0) return;
  Product product = bind_product(weight, in);
  product.rows = rows;
  const Cut cut(weight, in, num_rows, threads.num_threads());
  std::vector<Peak> peaks(static_cast<size_t>(cut.num_chunks * num_rows));  // [chunks, rows]
  threads.for_each(cut.num_tasks(), [&](int64_t task) {
    find_peaks(kernels, product, cut, task, &peaks[static_cast<size_t>(task % cut.num_chunks * num_rows)]);
  });
  for (int64_t row = 0; row < num_rows; ++row) {
    Peak highest;
    for (int64_t chunk = 0; chunk < cut.num_chunks; ++chunk) {
      const Peak& peak = peaks[static_cast<size_t>(chunk * num_rows + row)];
      if (peak.value > highest.value) highest.value = peak.value, highest.place = peak.place;
      highest.is_finite &= peak.is_finite;
    }
    places[row] = highest.is_finite ? highest.place : -1;
  }
}

}  // namespace octavo
