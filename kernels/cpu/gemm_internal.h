#pragma once
// What the GEMM driver asks of the vector code: operands widened, results finished.
#include <olm/kernels/gemm.h>

namespace olm::kernels::gemm_internal {

/// One panel of a result, computed in acc_dtype and still to be finished into C.
struct Finish {
  DType dtype = f32;             // of c, preactivation and residual
  const void* source = nullptr;  // alpha · op(A) · op(B), in acc_dtype(dtype); may be c itself
  int64_t source_ld = 0;
  void* c = nullptr;
  void* preactivation = nullptr;
  const void* residual = nullptr;
  const void* bias = nullptr;  // in acc_dtype(dtype)
  int64_t rows = 0, cols = 0, ldc = 0;
  Activation activation = Activation::none;
  bool accumulate = false;
};
void finish(const Finish& f);

/// dst[r, c] = src[r, c] as f32, tight; src has rows of `ld` elements.
void widen(DType from, const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols);

}  // namespace olm::kernels::gemm_internal
