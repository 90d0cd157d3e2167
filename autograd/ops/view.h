#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// The same elements under another shape. All but reshape and flatten share x's memory always; those
// two copy where x's strides leave no other way.

/// One size may be -1. Throws where the sizes do not hold x's elements, or x's strides do not allow
/// it without a copy.
OLM_API Tensor view(const Tensor& x, const Shape& shape);
/// As view, with a copy where strides do not allow it.
OLM_API Tensor reshape(const Tensor& x, const Shape& shape);
/// Dimensions start to end become one.
OLM_API Tensor flatten(const Tensor& x, int64_t start = 0, int64_t end = -1);
/// Two dimensions change places.
OLM_API Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1);
/// Dimension i of the result is dimension order[i] of x.
OLM_API Tensor permute(const Tensor& x, const Shape& order);
/// Dimensions of size 1, and new ones in front, repeated to `shape`; -1 keeps a size. Throws where
/// x does not broadcast to it.
OLM_API Tensor expand(const Tensor& x, const Shape& shape);
/// Without the dimensions of size 1, or without that one if its size is 1.
OLM_API Tensor squeeze(const Tensor& x);
OLM_API Tensor squeeze(const Tensor& x, int64_t dim);
/// With a new dimension of size 1 at `dim`.
OLM_API Tensor unsqueeze(const Tensor& x, int64_t dim);

}  // namespace olm
