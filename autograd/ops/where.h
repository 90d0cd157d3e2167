#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// y = condition ? a : b, element by element over the shape all three broadcast to. condition is
/// boolean; a and b are of one dtype, which is y's, or numbers. Throws where shapes do not
/// broadcast, or dtypes or devices do not fit.
OLM_API Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
OLM_API Tensor where(const Tensor& condition, const Tensor& a, double b);
OLM_API Tensor where(const Tensor& condition, double a, const Tensor& b);

/// x with `value` where the boolean mask, which broadcasts to x's shape, is true.
OLM_API Tensor masked_fill(const Tensor& x, const Tensor& mask, double value);

/// x [..., R, C] with zeros above the given diagonal (column > row + diagonal), or below it.
OLM_API Tensor tril(const Tensor& x, int64_t diagonal = 0);
OLM_API Tensor triu(const Tensor& x, int64_t diagonal = 0);

}  // namespace olm
