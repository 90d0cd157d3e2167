#pragma once
#include <array>

#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// y[i] = convert(x[i]) over any two strided views of the same shape. Stride 0 repeats. Strides are
/// in elements. Floats convert with rounding to nearest even; to bool, non
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

/// The same copy with dimensions of size 1 gone and neighbours that can be walked as one merged;
/// rank >= 1.
OLM_API Copy simplified(const Copy& k);

/// y[i] = value over a strided view of `dtype`. Integers and booleans get `whole`, floats `value`,
/// rounded to nearest even.
struct Fill {
  static constexpr const char* name = "fill";
  DType dtype = DType::f32;
  void* y = nullptr;
  int rank = 0;
  std::array<int64_t, 8> shape{}, strides{};
  double value = 0;
  int64_t whole = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const Fill&);
OLM_API void run(Cuda, const Fill&);

/// y[i] = i for n contiguous elements of `dtype`.
struct Arange {
  static constexpr const char* name = "arange";
  DType dtype = DType::i64;
  void* y = nullptr;
  int64_t n = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const Arange&);
OLM_API void run(Cuda, const Arange&);

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
