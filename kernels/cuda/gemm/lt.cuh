#pragma once
// GEMM by cuBLASLt.
#include <olm/kernels/gemm.h>

namespace olm::kernels::cuda_gemm {

/// True for a GEMM whose epilogue the library has as the contract says it: operands of one dtype, C
/// of that or f32, a bias of C's dtype; residual or `accumulate`, not both; of activations
/// gelu_tanh into bf16, whose digits its approximation has. relu is not among them: the library's
/// may lose NaN.
bool lt_takes(const Gemm& g);

/// Queues such a GEMM, its leading dimensions given, its sizes not 0. False, and nothing is queued,
/// where the library has no algorithm for it.
bool run_lt(const Gemm& g);

}  // namespace olm::kernels::cuda_gemm
