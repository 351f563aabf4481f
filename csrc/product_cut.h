// How the products of a program are cut into tasks.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "program.h"

namespace octavo {

// Activations that a task of a product goes over for each panel; they should stay in the second-level cache.
constexpr int64_t BLOCK_BYTES = 384 << 10;
// Tasks for each thread that a product is cut into where it is large enough: fine enough that threads end together.
constexpr int64_t TASKS_A_THREAD = 8;
// Panels that go through a kernel together where there is a single row (isa/register_tile.h): with few rows a task has whole
// groups of them.
constexpr int64_t PANELS_TOGETHER = 4;
constexpr int64_t FEW_ROWS = 4;
// Rows of the largest tile of any instruction set: blocks are of whole tiles, and of two at the least.
constexpr int64_t TILE_ROWS = 12;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A product as blocks of rows, whose activations stay in cache, by chunks of panels.
struct Cut {
  int64_t num_rows, num_panels, num_threads, rows_a_block, panels_a_chunk, num_chunks;

  Cut(const PackedWeight& weight, const Buffer& in, int64_t rows, int threads, int64_t tasks_a_thread = TASKS_A_THREAD)
      : num_rows(rows), num_panels(weight.num_panels()), num_threads(threads) {
    // Of grouped forms the int8 only: with fewer rows a block each weight would be unpacked more often.
    const int64_t values_bytes = in.is_grouped() ? in.width : in.values_stride;
    const int64_t row_bytes = in.form == Form::float32 ? weight.num_inputs * 4 : values_bytes;
    const int64_t most = std::max<int64_t>(2 * TILE_ROWS, BLOCK_BYTES / row_bytes / TILE_ROWS * TILE_ROWS);
    const int64_t num_blocks = std::max<int64_t>(1, divide_up(rows, most));
    rows_a_block = std::max<int64_t>(1, divide_up(rows, num_blocks));
    const int64_t chunks_wanted = divide_up(threads * tasks_a_thread, num_blocks);
    panels_a_chunk = std::max<int64_t>(1, num_panels / chunks_wanted);
    if (rows < FEW_ROWS) panels_a_chunk = divide_up(panels_a_chunk, PANELS_TOGETHER) * PANELS_TOGETHER;
    num_chunks = divide_up(num_panels, panels_a_chunk);
  }
  int64_t num_tasks() const { return divide_up(num_rows, rows_a_block) * num_chunks; }
  struct Range {
    int64_t begin, end;
  };
  Range rows(int64_t task) const {
    const int64_t begin = task / num_chunks * rows_a_block;
    return {begin, std::min(num_rows, begin + rows_a_block)};
  }
  Range panels(int64_t task) const {
    const int64_t begin = task % num_chunks * panels_a_chunk;
    return {begin, std::min(num_panels, begin + panels_a_chunk)};
  }
  void run(const KernelTable& kernels, const Product& product, int64_t task) const {
    const Range own_rows = rows(task), own_panels = panels(task);
    kernels.product_with(*product.weight)(product, own_rows.begin, own_rows.end, own_panels.begin, own_panels.end,
                    panels(std::min(task + num_threads, num_tasks() - 1)).begin);
  }
};

// A product of a buffer's rows from `first_row` on; bias and output are to be set.
inline Product bind_product(const PackedWeight& weight, const Buffer& in, int64_t first_row = 0) {
  Product product;
  product.weight = &weight;
  product.x = in.data + first_row * in.width;
  product.x_stride = in.width;
  if (in.form == Form::float32) return product;
  product.values = in.values + first_row * in.values_stride;
  product.values_stride = in.values_stride;
  if (in.is_grouped()) return product;
  product.scales = in.scales + first_row * in.num_groups();
  product.starts = in.starts + first_row * in.num_groups();
  return product;
}

}  // namespace octavo
