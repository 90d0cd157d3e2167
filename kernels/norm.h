#pragma once
// Contract of the norms over the last axis, with or without a residual added first.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) or LayerNorm (Ba, Kiros & Hinton 2016,
/// arXiv:1607.06450).
enum class NormKind : uint8_t { rms, layer };

/// The norm of x, or of x + delta, over the last axis:
///   s[r,c] = x[r,c] + delta[r,c], rounded to `dtype`
///   mean[r] = mean_c s[r,c] for LayerNorm, 0 for RMSNorm
///   rstd[r] = 1 / sqrt(mean_c (s[r,c] - mean[r])² + eps)
///   y[r,c] = (s[r,c] - mean[r]) · rstd[r] · weight[c] + bias[c]
/// y, s, x, delta: [rows, cols] contiguous, of `dtype`. In acc_dtype: weight, bias [cols], and
/// mean, rstd [rows], which backward reads. Null: delta (s = x, and s is not written), weight
/// (ones), bias (zeros), mean (RMSNorm).
struct NormForward {
  static constexpr const char* name = "norm forward";
  NormKind kind = NormKind::rms;
  DType dtype = f32;
  void* y = nullptr;
  void* s = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
  const void* x = nullptr;
  const void* delta = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  int64_t rows = 0, cols = 0;
  double eps = 1e-5;
  Stream stream = {};
};
OLM_API void run(Cpu, const NormForward&);
OLM_API void run(Cuda, const NormForward&);

/// With n[r,c] = (s[r,c] - mean[r]) · rstd[r] and g[r,c] = dy[r,c] · weight[c]:
///   dx[r,c] = ds[r,c] + rstd[r] · (g[r,c] - mean_c g - n[r,c] · mean_c (g · n))
///   dweight[c] = Σ_r dy[r,c] · n[r,c]      dbias[c] = Σ_r dy[r,c]
/// where RMSNorm lacks mean_c g. dx is the gradient of x and of delta alike; ds is what reaches s
/// from elsewhere (null: zeros). For LayerNorm of one column dx is ds exactly.
/// dx, dy, ds, s (x, if there was no delta): [rows, cols] contiguous, of `dtype`. dweight and dbias
/// [cols] are in acc_dtype, summed over rows in a fixed order, and with their `accumulate` flag are
/// added to what is there. A gradient that is null is skipped. weight, mean, rstd: as in forward.
struct NormBackward {
  static constexpr const char* name = "norm backward";
  NormKind kind = NormKind::rms;
  DType dtype = f32;
  void* dx = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;
  const void* dy = nullptr;
  const void* ds = nullptr;
  const void* s = nullptr;
  const void* weight = nullptr;
  const void* mean = nullptr;
  const void* rstd = nullptr;
  int64_t rows = 0, cols = 0;
  bool accumulate_weight = false, accumulate_bias = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const NormBackward&);
OLM_API void run(Cuda, const NormBackward&);

}  // namespace olm::kernels
