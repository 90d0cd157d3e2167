#pragma once
#include <limits>

#include <olm/autograd/tape.h>

namespace olm {

// Windows onto a tensor's memory.

/// Elements [start, end) of one dimension, every step-th. Negative positions count from the back;
/// those outside are moved to the ends, as in Python. Throws unless step >= 1.
OLM_API Tensor slice(const Tensor& x, int64_t dim, int64_t start,
                     int64_t end = std::numeric_limits<int64_t>::max(), int64_t step = 1);

/// One index of a dimension, which disappears; negative counts from the back. Throws if out of
/// range.
OLM_API Tensor select(const Tensor& x, int64_t dim, int64_t index);

/// Pieces of `size` elements along a dimension, the last one smaller if they do not divide it; or
/// pieces of the given sizes, which must add up to it.
OLM_API Tensors split(const Tensor& x, int64_t size, int64_t dim = 0);
OLM_API Tensors split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t dim = 0);
/// At most `chunks` pieces of equal size along a dimension, the last one smaller where need be.
OLM_API Tensors chunk(const Tensor& x, int64_t chunks, int64_t dim = 0);

}  // namespace olm
