#pragma once
// GEMM by packed blocks around a microkernel.
#include <olm/kernels/cpu/gemm/microkernel.h>

namespace olm::kernels::gemm {

/// Operands of f32 or bf16, as the microkernel's choice wants them (best_microkernel), k > 0.
void run_blocked(const MicroKernel& kernel, const Problem& problem, const Stream& stream);

}  // namespace olm::kernels::gemm
