#pragma once
// Target ids of the cross-entropy kernels, of either index dtype.
#include <olm/kernels/base/types.h>

namespace olm::kernels {

struct Targets {
  const void* data = nullptr;
  DType dtype = i64;
  int64_t operator[](int64_t r) const {
    return dtype == i32 ? int64_t(in<int32_t>(data)[r]) : in<int64_t>(data)[r];
  }
};

/// How many targets are not `ignore_index`; throws at one that is no class.
inline int64_t count_targets(const char* op, const Targets& targets, int64_t rows, int64_t classes,
                             int64_t ignore_index) {
  int64_t valid = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = targets[r];
    if (t == ignore_index) continue;
    require(t >= 0 && t < classes, op, ": target ", t, " at position ", r, " is not in [0, ",
            classes, ") and not the ignored ", ignore_index);
    ++valid;
  }
  return valid;
}

}  // namespace olm::kernels
