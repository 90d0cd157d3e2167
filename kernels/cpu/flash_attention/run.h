#pragma once
// Attention by a microkernel of the caller's choice.
#include <olm/kernels/cpu/flash_attention/gemm_bf16.h>

namespace olm::kernels::attention {

/// `kernel`: what multiplies pairs of bf16, or null, where operands are widened to acc_dtype.
void run_forward(const FlashAttentionForward& f, const MicroKernel* kernel);
void run_backward(const FlashAttentionBackward& f, const MicroKernel* kernel);

}  // namespace olm::kernels::attention
