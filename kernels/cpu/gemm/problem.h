#pragma once
// One GEMM of a batch: its operands, its sizes, and the epilogue on the way to C. Every
// implementation (blocked.h, small_m.h, cblas.h) takes one of these.
#include <olm/kernels/cpu/gemm/epilogue.h>

namespace olm::kernels::gemm {

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

/// C = epilogue(alpha · op(A) · op(B)), op(A) [m, k], op(B) [k, n].
struct Problem {
  Matrix a = {}, b = {};
  int64_t m = 0, n = 0, k = 0;
  double alpha = 1;
  Epilogue epilogue = {};  ///< with C itself
  int64_t c_total = 0;  ///< elements of all C written side by side, where that is more than m · n
};

}  // namespace olm::kernels::gemm
