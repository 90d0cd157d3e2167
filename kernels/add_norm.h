#pragma once
// Contract of the kernels that add a residual and normalise the sum in one pass.
#include <olm/kernels/base/run.h>

namespace olm::kernels {

/// sum = x + residual, rounded to `dtype`, and y = the norm of sum over the last axis:
/// `centered`: LayerNorm (see LayerNormForward); otherwise RMSNorm, y = sum · rstd · weight with
/// rstd[r] = 1 / sqrt(mean_c sum[r,c]² + eps).
/// x, residual, sum, y: [rows, cols] contiguous, of `dtype`. In acc_dtype: weight, bias [cols]
/// (null: 1 and 0), mean (LayerNorm only), rstd [rows], kept for backward. Without a residual
/// (null), y is the norm of x, and sum is not written.
struct AddNormForward {
  static constexpr const char* name = "add_norm forward";
  DType dtype = f32;
  void* sum = nullptr;
  void* y = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
  const void* x = nullptr;
  const void* residual = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  int64_t rows = 0, cols = 0;
  double eps = 0;
  bool centered = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const AddNormForward&);
OLM_API void run(Cuda, const AddNormForward&);

/// dx = dsum + the norm's gradient for dy, which is the gradient of x and of residual alike.
/// dsum may be null: zero. dweight and dbias [cols] are in acc_dtype, summed over rows in a fixed
/// order, and with their `accumulate` flag are added to. A gradient that is null is skipped.
struct AddNormBackward {
  static constexpr const char* name = "add_norm backward";
  DType dtype = f32;
  void* dx = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;
  const void* dy = nullptr;
  const void* dsum = nullptr;
  const void* sum = nullptr;
  const void* weight = nullptr;
  const void* mean = nullptr;
  const void* rstd = nullptr;
  int64_t rows = 0, cols = 0;
  bool centered = false, accumulate_weight = false, accumulate_bias = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const AddNormBackward&);
OLM_API void run(Cuda, const AddNormBackward&);

}  // namespace olm::kernels
