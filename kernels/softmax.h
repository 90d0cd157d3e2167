#pragma once
// Contract of the softmax kernels.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Over each row of x, with m its maximum:
///   y[r,c] = e^(x[r,c] - m) / Σ_j e^(x[r,j] - m)        `log`: the logarithm of that
/// x, y: [rows, cols] contiguous, of `dtype`; y may be x, and dx below dy. Sums are kept in
/// acc_dtype. A row that is all -inf gives 0, and -inf with `log`. Other than in f64, exponentials
/// below the least normal f32 are 0.
struct SoftmaxForward {
  static constexpr const char* name = "softmax forward";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  int64_t rows = 0, cols = 0;
  bool log = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const SoftmaxForward&);
OLM_API void run(Cuda, const SoftmaxForward&);

/// From the result y:
///   dx[r,c] = y[r,c] · (dy[r,c] - Σ_j dy[r,j] · y[r,j])
///   `log`:  dx[r,c] = dy[r,c] - e^y[r,c] · Σ_j dy[r,j]; 0 for a row that is all -inf
struct SoftmaxBackward {
  static constexpr const char* name = "softmax backward";
  DType dtype = f32;
  void* dx = nullptr;
  const void* dy = nullptr;
  const void* y = nullptr;
  int64_t rows = 0, cols = 0;
  bool log = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const SoftmaxBackward&);
OLM_API void run(Cuda, const SoftmaxBackward&);

}  // namespace olm::kernels
