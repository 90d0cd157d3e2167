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

}  // namespace olm::kernels
