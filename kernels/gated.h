#pragma once
// Contract of the gated linear units.
#include <olm/kernels/gemm.h>

namespace olm::kernels {

/// Gated linear units (Shazeer 2020, arXiv:2002.05202) on packed rows, value first, gate second:
///   y[r,c] = x[r,c] · act(x[r, hidden + c])
/// `activation` is which: `silu` SwiGLU, `gelu` (exact) and `gelu_tanh` GeGLU, `relu` ReGLU, `none`
/// LiGLU, the bilinear unit, `sigmoid` GLU (Dauphin et al. 2016, arXiv:1612.08083). x: [rows, 2 ·
/// hidden], y: [rows, hidden], contiguous, of `dtype`; computed in acc_dtype, to the accuracy that
/// `dtype` leaves.
struct GatedForward {
  static constexpr const char* name = "gated unit forward";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  int64_t rows = 0, hidden = 0;
  Activation activation = Activation::silu;
  Stream stream = {};
};
OLM_API void run(Cpu, const GatedForward&);
OLM_API void run(Cuda, const GatedForward&);

/// dx[r,c] = dy[r,c] · act(gate)      dx[r, hidden + c] = dy[r,c] · x[r,c] · act'(gate)
/// with gate = x[r, hidden + c], whose activation is computed again. dx: [rows, 2 · hidden].
struct GatedBackward {
  static constexpr const char* name = "gated unit backward";
  DType dtype = f32;
  void* dx = nullptr;
  const void* dy = nullptr;
  const void* x = nullptr;
  int64_t rows = 0, hidden = 0;
  Activation activation = Activation::silu;
  Stream stream = {};
};
OLM_API void run(Cpu, const GatedBackward&);
OLM_API void run(Cuda, const GatedBackward&);

}  // namespace olm::kernels
