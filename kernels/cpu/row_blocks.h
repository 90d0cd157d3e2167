#pragma once
// Sums over rows (gradients of per-column parameters) that do not depend on the number of threads:
// rows are cut into fixed blocks, each block sums into memory of its own, and the blocks are added
// in order.
#include <algorithm>

#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Where sums over rows go: `to` [cols], or null where they are not wanted.
template <class A>
struct ColumnSums {
  A* to = nullptr;
  bool accumulate = false;  ///< add to what is there
};

/// Adds the blocks' sums in order.
template <class A>
void add_blocks(const A* partials, int64_t blocks, int64_t cols, ColumnSums<A> sums) {
  if (!sums.to) return;
  parallel_for(cols, 4096, [&](int64_t begin, int64_t end) {
    if (!sums.accumulate) std::fill(sums.to + begin, sums.to + end, A(0));
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = begin; c < end; ++c) sums.to[c] += partials[b * cols + c];
  });
}

/// Calls body(begin, end, first, second) for each block of rows; the partial sums `first` and
/// `second` [cols] start at zero and are null where they are not wanted.
template <class A, class Body>
void for_row_blocks(int64_t rows, int64_t cols, const Stream& stream, ColumnSums<A> first,
                    ColumnSums<A> second, Body&& body) {
  constexpr int64_t kMaxBlocks = 32;
  const int64_t wanted = std::max<int64_t>(rows_per_range(cols), ceil_div(rows, kMaxBlocks));
  const int64_t per_block = std::max<int64_t>(wanted, 1);
  const int64_t blocks = ceil_div(rows, per_block);
  const auto firsts = stream.scratch<A>(first.to ? size_t(blocks * cols) : 0);
  const auto seconds = stream.scratch<A>(second.to ? size_t(blocks * cols) : 0);
  parallel_for(rows, per_block, [&](int64_t begin, int64_t end) {
    const auto zeroed = [&](const ColumnSums<A>& sums, A* partials) -> A* {
      if (!sums.to) return nullptr;
      A* partial = partials + begin / per_block * cols;
      std::fill_n(partial, cols, A(0));
      return partial;
    };
    body(begin, end, zeroed(first, firsts), zeroed(second, seconds));
  });
  add_blocks(firsts.get(), blocks, cols, first);
  add_blocks(seconds.get(), blocks, cols, second);
}

/// The same for one sum: body(begin, end, partial).
template <class A, class Body>
void for_row_blocks(int64_t rows, int64_t cols, const Stream& stream, ColumnSums<A> sums,
                    Body&& body) {
  for_row_blocks(rows, cols, stream, sums, ColumnSums<A>{},
                 [&](int64_t begin, int64_t end, A* partial, A*) { body(begin, end, partial); });
}

}  // namespace olm::kernels
