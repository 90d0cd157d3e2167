#pragma once
// Contract of the LayerNorm kernels.
#include <olm/kernels/base/run.h>

namespace olm::kernels {

/// LayerNorm over the last axis (Ba, Kiros & Hinton 2016, arXiv:1607.06450).
///   mean[r] = mean_c x[r,c]      rstd[r] = 1 / sqrt(mean_c (x[r,c] - mean[r])² + eps)
///   y[r,c] = (x[r,c] - mean[r]) · rstd[r] · gamma[c] + beta[c]
/// x, y: [rows, cols] contiguous, of `dtype`. In acc_dtype: gamma, beta [cols] (null: 1 and 0),
/// mean, rstd [rows], kept for backward.
struct LayerNormForward {
  static constexpr const char* name = "layer_norm forward";
  DType dtype = f32;
  void* y = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
  const void* x = nullptr;
  const void* gamma = nullptr;
  const void* beta = nullptr;
  int64_t rows = 0, cols = 0;
  double eps = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const LayerNormForward&);
OLM_API void run(Cuda, const LayerNormForward&);

/// With n[r,c] = (x[r,c] - mean[r]) · rstd[r] and g = dy · gamma:
///   dx[r,c] = rstd[r] · (g[r,c] - mean_c g - n[r,c] · mean_c (g · n))
///   dgamma[c] = Σ_r dy[r,c] · n[r,c]      dbeta[c] = Σ_r dy[r,c]
/// Sums over rows have a fixed order. dx is of `dtype`; dgamma and dbeta [cols] are in acc_dtype,
/// and with their `accumulate` flag are added to. A gradient that is null is skipped.
struct LayerNormBackward {
  static constexpr const char* name = "layer_norm backward";
  DType dtype = f32;
  void* dx = nullptr;
  void* dgamma = nullptr;
  void* dbeta = nullptr;
  const void* dy = nullptr;
  const void* x = nullptr;
  const void* gamma = nullptr;
  const void* mean = nullptr;
  const void* rstd = nullptr;
  int64_t rows = 0, cols = 0;
  bool accumulate_gamma = false, accumulate_beta = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const LayerNormBackward&);
OLM_API void run(Cuda, const LayerNormBackward&);

}  // namespace olm::kernels
