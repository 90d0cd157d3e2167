#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// RMSNorm over the last axis: y = x / sqrt(mean(x²) + eps) · weight, computed in f32 (f64 for
/// f64). x: [..., D], weight: [D] in x's dtype or its acc_dtype. Throws where weight does not fit.
/// Zhang & Sennrich 2019, arXiv:1910.07467.
OLM_API Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps = 1e-5);

}  // namespace olm
