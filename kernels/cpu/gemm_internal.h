#pragma once
// What the parts of GEMM share: operands, one product of a batch, and what the vector code does
// before and after the products.
#include <olm/kernels/gemm.h>

namespace olm::kernels::gemm_internal {

inline const char* advance(const void* p, int64_t elements, DType t) {
  return static_cast<const char*>(p) + elements * int64_t(size_of(t));
}
inline char* advance(void* p, int64_t elements, DType t) {
  return static_cast<char*>(p) + elements * int64_t(size_of(t));
}

/// An operand as stored: rows of `ld` elements.
struct Matrix {
  const void* data = nullptr;
  DType dtype = f32;
  int64_t ld = 0;
  bool transposed = false;

  /// Rows [row, …) and columns [col, …) of op(this).
  Matrix at(int64_t row, int64_t col) const {
    Matrix m = *this;
    m.data = advance(data, transposed ? col * ld + row : row * ld + col, dtype);
    return m;
  }
};

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
  bool past_caches = false;  // c and preactivation are written so: whole lines, and a fence later

  /// Rows [row, …) and columns [col, …) of the result.
  Finish at(int64_t row, int64_t col) const {
    Finish f = *this;
    const int64_t offset = row * ldc + col;
    f.c = advance(c, offset, dtype);
    if (preactivation) f.preactivation = advance(preactivation, offset, dtype);
    if (residual) f.residual = advance(residual, offset, dtype);
    if (bias) f.bias = advance(bias, col, acc_dtype(dtype));
    return f;
  }
};
void finish(const Finish& f);

/// One product of the batch, or one panel of it.
struct Product {
  Matrix a = {}, b = {};
  int64_t m = 0, n = 0, k = 0;
  double alpha = 1;
  Finish out = {};  // its ldc is that of C
};

/// True for few rows times a matrix stored row by output; run_thin then reads that matrix once, as
/// it is stored.
bool is_thin(const Product& p);
void run_thin(const Product& p, const Stream& stream);

/// dst[r, c] = src[r, c] as f32, tight; src has rows of `ld` elements.
void widen(DType from, const void* src, int64_t ld, float* dst, int64_t rows, int64_t cols);

}  // namespace olm::kernels::gemm_internal
