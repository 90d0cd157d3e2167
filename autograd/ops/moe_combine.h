#pragma once
// Results of experts back to their tokens.
#include <olm/autograd/ops/moe_permute.h>

namespace olm {

/// The weighted sum of what a token's experts gave, over k in order, in acc_dtype:
///   out[n] = Σ_k weights[n, k] · y[positions[n, k]] + residual[n]
///   y: [N·K, D] in the order of experts    weights: [..., K] in acc_dtype(y) or y's dtype
///   residual: [..., D] or undefined, as of shared experts    out: [..., D]
/// Throws where shapes, dtypes or devices do not fit.
OLM_API Tensor moe_combine(const Tensor& y, const Tensor& weights,
                           const MoEPermutation& permutation, const Tensor& residual = {});

}  // namespace olm
