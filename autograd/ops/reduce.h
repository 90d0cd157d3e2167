#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// The shape of what a reduction leaves.
struct ReduceOptions {
  bool keepdim = false;  ///< reduced dimensions stay, with size 1
};
/// The divisor of a variance, and the shape.
struct VarOptions {
  double correction =
      1;  ///< taken from the count in the divisor: 1 for a sample, 0 for all there is
  bool keepdim = false;
};

// Reductions over one dimension, a list of dimensions, or all of them (without `dims`; the result
// is then a scalar). Sums are kept in acc_dtype, in an order that depends on the shape alone.
// Throws where a dimension is out of range or named twice.

/// Σ x; integers and bool sum to i64.
OLM_API Tensor sum(const Tensor& x);
OLM_API Tensor sum(const Tensor& x, const Shape& dims, ReduceOptions options = {});
OLM_API Tensor sum(const Tensor& x, int64_t dim, ReduceOptions options = {});
/// Σ x / count; NaN over nothing. Floats only, as are var and logsumexp.
OLM_API Tensor mean(const Tensor& x);
OLM_API Tensor mean(const Tensor& x, const Shape& dims, ReduceOptions options = {});
OLM_API Tensor mean(const Tensor& x, int64_t dim, ReduceOptions options = {});
/// The largest element, NaN if there is one. Equal ones share the gradient evenly. Throws over
/// nothing, as do min, argmax and argmin.
OLM_API Tensor max(const Tensor& x);
OLM_API Tensor max(const Tensor& x, const Shape& dims, ReduceOptions options = {});
OLM_API Tensor max(const Tensor& x, int64_t dim, ReduceOptions options = {});
/// The smallest element, likewise.
OLM_API Tensor min(const Tensor& x);
OLM_API Tensor min(const Tensor& x, const Shape& dims, ReduceOptions options = {});
OLM_API Tensor min(const Tensor& x, int64_t dim, ReduceOptions options = {});
/// Σ (x - mean)² / (count - correction), in two passes.
OLM_API Tensor var(const Tensor& x);
OLM_API Tensor var(const Tensor& x, const Shape& dims, VarOptions options = {});
OLM_API Tensor var(const Tensor& x, int64_t dim, VarOptions options = {});
/// ln Σ e^x, computed around the maximum.
OLM_API Tensor logsumexp(const Tensor& x);
OLM_API Tensor logsumexp(const Tensor& x, const Shape& dims, ReduceOptions options = {});
OLM_API Tensor logsumexp(const Tensor& x, int64_t dim, ReduceOptions options = {});

/// The first index of the largest (smallest) element, i64; without `dim` in x as one row. NaN
/// counts as the extreme.
OLM_API Tensor argmax(const Tensor& x);
OLM_API Tensor argmax(const Tensor& x, int64_t dim, ReduceOptions options = {});
OLM_API Tensor argmin(const Tensor& x);
OLM_API Tensor argmin(const Tensor& x, int64_t dim, ReduceOptions options = {});

}  // namespace olm
