#pragma once
#include <olm/autograd/ops/cross_entropy.h>

namespace olm {

/// How logits are made, and what is made of them.
struct LinearCrossEntropyOptions {
  Tensor bias = {};    ///< [V] or undefined
  double softcap = 0;  ///< logits become softcap · tanh(logits / softcap); 0: as they are
  CrossEntropyOptions loss = {};
};

/// cross_entropy(x · weightᵀ + bias, targets) of a language model's head, by chunks of tokens, so
/// that the logits [.., V] never exist as a whole; where gradients are wanted they are computed
/// along the way. x: [..., D]; weight: [V,D] and bias: [V] in acc_dtype(x) or in x's dtype;
/// targets: x's shape without D. The loss is a scalar, f32 (f64 for f64). Logits and losses are
/// computed in that dtype; the gradient of bf16 logits passes through bf16. Throws where shapes do
/// not fit, on targets as cross_entropy does, and for Reduction::none.
OLM_API Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                    const LinearCrossEntropyOptions& options = {});

}  // namespace olm
