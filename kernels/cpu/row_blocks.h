#pragma once
// Sums over rows (gradients of per-column parameters) that do not depend on the number of threads:
// rows are cut into fixed blocks, each block sums into memory of its own, and the blocks are added
// in order.
#include <algorithm>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Where sums over rows go: `to` [cols], or null where they are not wanted.
template <class A>
struct ColumnSums {
  A* to = nullptr;
  bool accumulate = false;  ///< add to what is there
};

/// Calls body(begin, end, partial) for each block of rows; `partial` [cols] starts at zero and is
/// null where no sums are wanted.
template <class A, class Body>
void for_row_blocks(int64_t rows, int64_t cols, const Stream& stream, ColumnSums<A> sums,
                    Body&& body) {
  constexpr int64_t kMaxBlocks = 32;
  const int64_t wanted =
      std::max<int64_t>(rows_per_range(cols), (rows + kMaxBlocks - 1) / kMaxBlocks);
  const int64_t per_block = std::max<int64_t>(wanted, 1);
  const int64_t blocks = (rows + per_block - 1) / per_block;
  const auto partials = stream.scratch<A>(sums.to ? size_t(blocks * cols) : 0);
  parallel_for(rows, per_block, [&](int64_t begin, int64_t end) {
    A* partial = sums.to ? partials + begin / per_block * cols : nullptr;
    if (partial) std::fill_n(partial, cols, A(0));
    body(begin, end, partial);
  });
  if (!sums.to) return;
  parallel_for(cols, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      A total = sums.accumulate ? sums.to[c] : A(0);
      for (int64_t b = 0; b < blocks; ++b) total += partials[b * cols + c];
      sums.to[c] = total;
    }
  });
}

}  // namespace olm::kernels
