#pragma once
// Running sums.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// y[o, j, i] = sum of x[o, 0..j, i], or of x[o, j.., i] if `reverse`; summed in acc_dtype,
/// in an order fixed by the shape.
///   x, y: [outer, size, inner] of `dtype`, a float or i64
struct Cumsum {
  static constexpr const char* name = "cumsum";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  int64_t outer = 0, size = 0, inner = 0;
  bool reverse = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const Cumsum&);
OLM_API void run(Cuda, const Cumsum&);

}  // namespace olm::kernels
