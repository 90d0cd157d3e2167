#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// Order along one dimension. Equal elements keep their order (the lower index first) in both
// directions, NaN is larger than every number, and gradients flow through the values alone.

/// Elements in order and where they came from (i64).
struct Sorted {
  Tensor values, indices;
};

/// The k largest elements along `dim`, descending.
///   values, indices: x's shape with k in place of dimension `dim`
/// Throws if k is negative or larger than the dimension.
OLM_API Sorted topk(const Tensor& x, int64_t k, int64_t dim = -1);

/// All elements along `dim` in order; the sort is stable.
OLM_API Sorted sort(const Tensor& x, int64_t dim = -1, bool descending = false);

/// The indices of sort(); they have no gradient.
OLM_API Tensor argsort(const Tensor& x, int64_t dim = -1, bool descending = false);

}  // namespace olm
