#pragma once
// Pointwise kernels of f64, i32 and i64: plain loops over the scalar formulas.
#include <olm/kernels/pointwise.h>

namespace olm::kernels {

/// True for the dtypes that the plain loops compute; the others go through f32 vectors.
constexpr bool is_exact(DType t) { return t == f64 || t == i32 || t == i64; }

void run_exact(const Unary&);
void run_exact(const UnaryBackward&);
void run_exact(const Binary&);
void run_exact(const BinaryBackward&);

}  // namespace olm::kernels
