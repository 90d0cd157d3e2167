#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// Running sum along one dimension: y[.., j, ..] = x[.., 0, ..] + … + x[.., j, ..].
///   x: [...]    y: x's shape; x's dtype where that is a float, else i64
/// Summed in acc_dtype, one after the other.
OLM_API Tensor cumsum(const Tensor& x, int64_t dim);

}  // namespace olm
