#pragma once
// Affine maps of groups of rows, each by parameters of its own.
#include <olm/autograd/ops/linear.h>

namespace olm {

/// An affine map of the last dimension with other parameters for each group of rows: for rows r in
/// [offsets[e], offsets[e+1])
///   y[r] = act(x[r] · W_eᵀ + b_e)
///   x: [R, in]    weights: E of [out, in], of one dtype    biases: E of [out], of one dtype, or
///   none offsets: i32 [E+1], never falling, from 0 to R (moe_sort)    y: [R, out]
/// Parameters come in acc_dtype(x) or in x's dtype and get their gradient in their own. A group
/// without rows gives its parameters no gradient, not one of zeros, on the CPU. Throws where
/// shapes, dtypes, devices or offsets do not fit.
OLM_API Tensor grouped_linear(const Tensor& x, const Tensors& weights, const Tensors& biases,
                              const Tensor& offsets, Activation activation = Activation::none);

}  // namespace olm
