#pragma once
// Contiguous conversions between f32 and bf16 on the calling thread.
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Rounds to nearest even; NaN stays NaN.
OLM_API void to_bf16(const float* x, bfloat16_t* y, int64_t n);
OLM_API void to_f32(const bfloat16_t* x, float* y, int64_t n);

}  // namespace olm::kernels
