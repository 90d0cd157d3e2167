#pragma once
#include <array>

#include <olm/kernels/base/run.h>

namespace olm::kernels {

/// y[i] = convert(x[i]) over any two strided views of the same shape. Stride 0 repeats (so a scalar
/// x fills y). Strides are in elements. Floats convert with rounding to nearest even; to bool, non
/// zero is true; to integers, truncation.
struct Copy {
  static constexpr const char* name = "copy";
  DType from = DType::f32, to = DType::f32;
  const void* x = nullptr;
  void* y = nullptr;
  int rank = 0;
  std::array<int64_t, 8> shape{}, x_strides{}, y_strides{};
  Stream stream = {};
};
OLM_API void run(Cpu, const Copy&);
OLM_API void run(Cuda, const Copy&);

/// y[i] = y_scale · y[i] + x_scale · x[i] for n contiguous elements of a float dtype; x may be null
/// where x_scale is 0.
struct Axpby {
  static constexpr const char* name = "axpby";
  DType dtype = DType::f32;
  const void* x = nullptr;
  void* y = nullptr;
  int64_t n = 0;
  double x_scale = 1, y_scale = 1;
  Stream stream = {};
};
OLM_API void run(Cpu, const Axpby&);
OLM_API void run(Cuda, const Axpby&);

/// found[0] (i32) = 1 where some of n contiguous floats is NaN or infinite, else 0.
struct FindNonfinite {
  static constexpr const char* name = "find nonfinite";
  DType dtype = DType::f32;
  const void* x = nullptr;
  int32_t* found = nullptr;
  int64_t n = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const FindNonfinite&);
OLM_API void run(Cuda, const FindNonfinite&);

}  // namespace olm::kernels
