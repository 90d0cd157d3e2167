#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// Comparisons of two tensors whose shapes broadcast to one another, or of a tensor and a number:
// boolean, outside the graph. Throws where shapes do not broadcast, or dtypes or devices differ.

OLM_API Tensor eq(const Tensor& a, const Tensor& b);
OLM_API Tensor ne(const Tensor& a, const Tensor& b);
OLM_API Tensor lt(const Tensor& a, const Tensor& b);
OLM_API Tensor le(const Tensor& a, const Tensor& b);
OLM_API Tensor gt(const Tensor& a, const Tensor& b);
OLM_API Tensor ge(const Tensor& a, const Tensor& b);
OLM_API Tensor eq(const Tensor& a, double b);
OLM_API Tensor ne(const Tensor& a, double b);
OLM_API Tensor lt(const Tensor& a, double b);
OLM_API Tensor le(const Tensor& a, double b);
OLM_API Tensor gt(const Tensor& a, double b);
OLM_API Tensor ge(const Tensor& a, double b);

/// Every element that is not 0 counts as true.
OLM_API Tensor logical_and(const Tensor& a, const Tensor& b);
OLM_API Tensor logical_or(const Tensor& a, const Tensor& b);
OLM_API Tensor logical_not(const Tensor& x);
/// True where x is NaN.
OLM_API Tensor isnan(const Tensor& x);

}  // namespace olm
