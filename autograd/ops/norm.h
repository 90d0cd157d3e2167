#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// RMSNorm over the last axis: y = x / sqrt(mean(x²) + eps) · weight, computed in f32 (f64 for
/// f64). x: [..., D], weight: [D] in x's dtype or its acc_dtype. Throws where weight does not fit.
/// Zhang & Sennrich 2019, arXiv:1910.07467.
OLM_API Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps = 1e-5);

/// LayerNorm over the last axis: y = (x - mean(x)) / sqrt(var(x) + eps) · gamma + beta with the
/// biased variance, computed in f32 (f64 for f64). x: [..., D]; gamma, beta: [D] in x's dtype or
/// its acc_dtype, or undefined for 1 and 0. Throws where gamma or beta does not fit. Ba, Kiros &
/// Hinton 2016, arXiv:1607.06450.
OLM_API Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta,
                          double eps = 1e-5);

/// The step between two blocks of a residual stream in one pass: the stream and its norm.
struct SumAndNorm {
  Tensor sum, y;
};

/// sum = x + delta, y = rms_norm(sum, weight, eps). x, delta: [..., D] of one dtype; weight: [D],
/// see rms_norm. Throws where shapes do not fit.
OLM_API SumAndNorm add_rms_norm(const Tensor& x, const Tensor& delta, const Tensor& weight,
                                double eps = 1e-5);

/// sum = x + delta, y = layer_norm(sum, gamma, beta, eps); see layer_norm.
OLM_API SumAndNorm add_layer_norm(const Tensor& x, const Tensor& delta, const Tensor& gamma,
                                  const Tensor& beta, double eps = 1e-5);

}  // namespace olm
