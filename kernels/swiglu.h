#pragma once
// Contract of the gated units.
#include <olm/kernels/gemm.h>

namespace olm::kernels {

/// Gated linear units (Shazeer 2020, arXiv:2002.05202) on packed rows, value first, gate second:
///   y[r,c] = x[r,c] · act(x[r, hidden + c])
/// x: [rows, 2 · hidden], y: [rows, hidden], contiguous, of `dtype`; computed in acc_dtype. `silu`
/// makes it SwiGLU, `gelu` GeGLU, `relu` ReGLU, `none` the bilinear unit, `sigmoid` GLU.
struct SwigluForward {
  static constexpr const char* name = "gated unit forward";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  int64_t rows = 0, hidden = 0;
  Activation activation = Activation::silu;
  Stream stream = {};
};
OLM_API void run(Cpu, const SwigluForward&);
OLM_API void run(Cuda, const SwigluForward&);

/// dx[r,c] = dy[r,c] · act(gate)      dx[r, hidden + c] = dy[r,c] · x[r,c] · act'(gate)
/// The activation is computed again from x. dx: [rows, 2 · hidden].
struct SwigluBackward {
  static constexpr const char* name = "gated unit backward";
  DType dtype = f32;
  void* dx = nullptr;
  const void* dy = nullptr;
  const void* x = nullptr;
  int64_t rows = 0, hidden = 0;
  Activation activation = Activation::silu;
  Stream stream = {};
};
OLM_API void run(Cpu, const SwigluBackward&);
OLM_API void run(Cuda, const SwigluBackward&);

}  // namespace olm::kernels
