#pragma once
// Muon's update of a matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), but
// for what GEMM does: raw::orthogonalize() puts them together. Numbers of the step are read from
// device memory, as in kernels/optim.h.
#include <olm/kernels/optim.h>

namespace olm::kernels {

/// The direction in which the matrix is to move, before it is orthogonalized, g = clip · gradient:
///   b = momentum·b + (1-momentum)·g    d = nesterov ? momentum·b + (1-momentum)·g : b
/// A skipped step leaves b as it is, and d is zeros.
///   gradient, b (`buffer`), d (`direction`): [n] of `dtype`, f32 or f64
struct MuonDirection {
  static constexpr const char* name = "muon direction";
  DType dtype = f32;
  const void* gradient = nullptr;
  void *buffer = nullptr, *direction = nullptr;
  int64_t n = 0;
  double momentum = 0.95;
  bool nesterov = true;
  const StepScalars* scalars = nullptr;
  Stream stream = {};
};
OLM_API void run(Cpu, const MuonDirection&);
OLM_API void run(Cuda, const MuonDirection&);

/// y = x · 1 / (*norm + eps).
///   x: [n] of x_dtype, f32 or f64    y: [n] of y_dtype, f64 for f64, else any other float
///   norm: device memory
struct DivideByNorm {
  static constexpr const char* name = "divide by norm";
  DType x_dtype = f32, y_dtype = f32;
  const void* x = nullptr;
  void* y = nullptr;
  int64_t n = 0;
  const double* norm = nullptr;
  double eps = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const DivideByNorm&);
OLM_API void run(Cuda, const DivideByNorm&);

/// Decoupled decay and a move along o, lr = lr · lr_scale:
///   p *= 1 - lr·weight_decay    p -= lr · scale · o
/// p (`parameter`), o (`direction`): [n] of `dtype`, f32 or f64
struct MuonUpdate {
  static constexpr const char* name = "muon";
  DType dtype = f32;
  void* parameter = nullptr;
  const void* direction = nullptr;
  int64_t n = 0;
  double lr_scale = 1, weight_decay = 0, scale = 1;
  const StepScalars* scalars = nullptr;
  Stream stream = {};
};
OLM_API void run(Cpu, const MuonUpdate&);
OLM_API void run(Cuda, const MuonUpdate&);

}  // namespace olm::kernels
