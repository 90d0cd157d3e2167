#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// The step between two residual blocks in one pass: sum = x + residual, y = the norm of sum.
struct SumAndNorm {
  Tensor sum, y;
};

/// sum = x + residual, y = rms_norm(sum, weight, eps). x, residual: [..., D] of one dtype;
/// weight: [D], see rms_norm. Throws where shapes do not fit.
OLM_API SumAndNorm add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                double eps = 1e-5);

/// sum = x + residual, y = layer_norm(sum, gamma, beta, eps); see layer_norm.
OLM_API SumAndNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                                  const Tensor& beta, double eps = 1e-5);

}  // namespace olm
