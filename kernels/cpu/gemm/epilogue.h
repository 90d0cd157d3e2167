#pragma once
// From sums in f32 or f64 to C: bias, activation, residual, conversion.
#include <olm/kernels/gemm.h>

namespace olm::kernels::gemm {

inline const char* advance(const void* p, int64_t elements, DType t) {
  return static_cast<const char*>(p) + elements * int64_t(size_of(t));
}
inline char* advance(void* p, int64_t elements, DType t) {
  return static_cast<char*>(p) + elements * int64_t(size_of(t));
}

/// C and what it is made of besides the sums S = alpha · op(A) · op(B):
///   Z = S + bias     C = act(Z) + residual     (+ C where `accumulate`)
struct Epilogue {
  DType dtype = f32;               ///< of c, preactivation and residual
  void* c = nullptr;               ///< rows of `ldc` elements, as those of the next two
  void* preactivation = nullptr;   ///< where Z goes, or null
  const void* residual = nullptr;  ///< may be c
  const void* bias = nullptr;      ///< one row, in acc_dtype(dtype)
  int64_t ldc = 0;
  Activation activation = Activation::none;
  bool accumulate = false;
  /// c and preactivation are written by non-temporal stores; these want whole cache lines, and a
  /// store fence after them.
  bool non_temporal = false;

  /// The same for rows [row, …) and columns [col, …) of C.
  Epilogue at(int64_t row, int64_t col) const {
    Epilogue e = *this;
    const int64_t offset = row * ldc + col;
    e.c = advance(c, offset, dtype);
    if (preactivation) e.preactivation = advance(preactivation, offset, dtype);
    if (residual) e.residual = advance(residual, offset, dtype);
    if (bias) e.bias = advance(bias, col, acc_dtype(dtype));
    return e;
  }
  /// True where C is the sums as they are, or they are added to it.
  bool only_stores() const {
    return !bias && !preactivation && !residual && activation == Activation::none;
  }
};

/// Sums [rows, cols] in acc_dtype of C's dtype, rows of `ld` elements.
struct SumsView {
  const void* data = nullptr;
  int64_t ld = 0, rows = 0, cols = 0;
};

/// Writes the upper left [rows, cols] of C. The sums may lie in C itself.
void apply(const Epilogue& epilogue, const SumsView& sums);

/// dst[r, c] = src[r, c] as f32, tight; src has rows of `ld` elements.
void widen(DType from, const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols);

}  // namespace olm::kernels::gemm
