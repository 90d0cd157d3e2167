#pragma once
// Attention by a unit of the caller's choice.
#include <olm/kernels/cpu/flash_attention/pairs.h>

namespace olm::kernels::attention {

/// `unit`: what multiplies pairs of bf16, or null, where operands are widened to acc_dtype.
void run_forward(const FlashAttentionForward& f, const Unit* unit);
void run_backward(const FlashAttentionBackward& f, const Unit* unit);

}  // namespace olm::kernels::attention
