#pragma once
// Order along rows.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// The first `count` elements of each row in order; count = cols sorts. Equal elements keep their
/// order (the lower index first), in both directions. NaN is larger than all numbers, and equal to
/// itself; -0 equals 0.
///   x: [rows, cols] of `dtype` (any)    values: [rows, count] of `dtype`    indices: [rows, count]
///   i64; either result may be null
struct Sort {
  static constexpr const char* name = "sort";
  DType dtype = f32;
  void* values = nullptr;
  void* indices = nullptr;
  const void* x = nullptr;
  int64_t rows = 0, cols = 0, count = 0;
  bool descending = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const Sort&);
OLM_API void run(Cuda, const Sort&);

}  // namespace olm::kernels
