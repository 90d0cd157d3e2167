#pragma once
#include <olm/kernels/base/run.h>

namespace olm::kernels {

/// RMSNorm over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467).
///   rstd[r] = 1 / sqrt(mean_c x[r,c]² + eps)      y[r,c] = x[r,c] · rstd[r] · w[c]
/// x, y: [rows, cols] contiguous, of `dtype`. In acc_dtype: w [cols], rstd [rows] (kept for
/// backward).
struct RMSNormForward {
  static constexpr const char* name = "rms_norm forward";
  DType dtype = DType::f32;
  const void *x = nullptr, *w = nullptr;
  void *y = nullptr, *rstd = nullptr;
  int64_t rows = 0, cols = 0;
  double eps = 1e-5;
  Stream stream = {};
};
OLM_API void run(Cpu, const RMSNormForward&);
OLM_API void run(Cuda, const RMSNormForward&);

/// With g = dy · w and x̂ = x · rstd:   dx = rstd · (g - x̂ · mean_c(g · x̂))   dw[c] = Σ_r dy · x̂
/// dy, dx of `dtype`; dw in acc_dtype, summed in a fixed order of rows, and added to what is there
/// if `accumulate`. A null dx or dw is skipped.
struct RMSNormBackward {
  static constexpr const char* name = "rms_norm backward";
  DType dtype = DType::f32;
  const void *dy = nullptr, *x = nullptr, *w = nullptr, *rstd = nullptr;
  void *dx = nullptr, *dw = nullptr;
  int64_t rows = 0, cols = 0;
  bool accumulate = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const RMSNormBackward&);
OLM_API void run(Cuda, const RMSNormBackward&);

}  // namespace olm::kernels
