#pragma once
// GEMM by the CBLAS library: every dtype, on every CPU.
#include <olm/kernels/cpu/gemm/problem.h>

namespace olm::kernels::gemm {

/// Cuts C into panels by its shape alone, for the thread pool.
void run_cblas(const Problem& problem, const Stream& stream);
/// On the calling thread, by one call of the library: for small members of a batch.
void run_cblas_whole(const Problem& problem, const Stream& stream);

}  // namespace olm::kernels::gemm
