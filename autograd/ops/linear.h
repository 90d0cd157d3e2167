#pragma once
// Affine maps of the last dimension.
#include <string>

#include <olm/autograd/tape.h>
#include <olm/kernels/gemm.h>

namespace olm {

using kernels::Activation;
using kernels::kActivations;
/// The activation called `name`, as name_of() prints it. Throws naming `where` and the known ones.
OLM_API Activation parse_activation(const std::string& name, const std::string& where);

/// What linear does to its result on the way out.
struct LinearOptions {
  Activation activation = Activation::none;
  Tensor residual = {};  ///< added after the activation; shape and dtype of the result
};

/// An affine map of the last dimension, with the work that often follows fused in:
///   y = act(x · Wᵀ + b) + residual
/// x: [..., in], weight: [out, in], bias: [out] or undefined; y: [..., out]. Parameters come in
/// acc_dtype(x) or in x's dtype and get their gradient in their own. Throws where shapes, dtypes or
/// devices do not fit.
OLM_API Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                      const LinearOptions& options = {});

/// Several affine maps of one input (queries, keys, values): y_i = x · W_iᵀ + b_i. `biases` is
/// empty or has one entry per weight, each of which may be undefined.
OLM_API Tensors linear(const Tensor& x, const Tensors& weights, const Tensors& biases = {});

}  // namespace olm
