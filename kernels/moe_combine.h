#pragma once
// Contract of the kernels that bring results of experts back to their tokens. Positions outside
// [0, tokens · top_k) are errors as the indices in index.h.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// The weighted sum of a token's sorted rows, in acc_dtype and in an order fixed by top_k:
///   y[n] = Σ_k weights[n, k] · x[positions[n, k]] + residual[n]
///   x: [tokens · top_k, cols], y, residual: [tokens, cols], all of `dtype`    positions, weights:
///   [tokens, top_k], weights in acc_dtype
/// Null: weights (ones), residual (zeros).
struct MoECombine {
  static constexpr const char* name = "moe_combine";
  DType dtype = f32;
  void* y = nullptr;
  const void *x = nullptr, *weights = nullptr, *residual = nullptr;
  const int32_t* positions = nullptr;
  int64_t tokens = 0, top_k = 0, cols = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const MoECombine&);
OLM_API void run(Cuda, const MoECombine&);

/// dx[positions[n, k]] = weights[n, k] · dy[n]      dweights[n, k] = dy[n] · x[positions[n, k]]
/// Shapes and dtypes are as above. Null: dx or dweights, where it is not wanted; x without
/// dweights.
struct MoECombineBackward {
  static constexpr const char* name = "moe_combine backward";
  DType dtype = f32;
  void *dx = nullptr, *dweights = nullptr;
  const void *dy = nullptr, *x = nullptr, *weights = nullptr;
  const int32_t* positions = nullptr;
  int64_t tokens = 0, top_k = 0, cols = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const MoECombineBackward&);
OLM_API void run(Cuda, const MoECombineBackward&);

}  // namespace olm::kernels
