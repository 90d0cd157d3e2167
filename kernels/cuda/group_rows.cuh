#pragma once
// Rows of groups, whose offsets lie in device memory.
#include <olm/kernels/cuda/launch.cuh>

namespace olm::kernels {

struct GroupRows {
  int64_t first = 0, count = 0;
};

/// The rows of a group. One that begins behind its end, or ends behind `rows`, is reported and
/// counts as empty.
__device__ inline GroupRows group_rows(const int32_t* offsets, int64_t group, int64_t rows,
                                       const Faults& faults) {
  const int64_t first = offsets[group], end = offsets[group + 1];
  if (first >= 0 && first <= end && end <= rows) return {first, end - first};
  if (first >= 0 && first <= end)
    faults.report(end, group + 1, rows + 1);
  else
    faults.report(first, group, (end < 0 ? 0 : end) + 1);
  return {0, 0};
}

}  // namespace olm::kernels
