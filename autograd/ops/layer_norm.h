#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// LayerNorm over the last axis: y = (x - mean(x)) / sqrt(var(x) + eps) · gamma + beta with the
/// biased variance, computed in f32 (f64 for f64). x: [..., D]; gamma, beta: [D] in x's dtype or
/// its acc_dtype, or undefined for 1 and 0. Throws where gamma or beta does not fit. Ba, Kiros &
/// Hinton 2016, arXiv:1607.06450.
OLM_API Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                          double eps = 1e-5);

}  // namespace olm
