#pragma once
// GEMM of a few rows of A, by dot products.
#include <olm/kernels/cpu/gemm/problem.h>

namespace olm::kernels::gemm {

/// True for few rows of A and a transposed B, neither of them f64.
bool is_small_m(const Problem& problem);
/// Reads B once, as it is stored, where is_small_m().
void run_small_m(const Problem& problem, const Stream& stream);

}  // namespace olm::kernels::gemm
