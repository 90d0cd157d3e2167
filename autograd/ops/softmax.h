#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// softmax along one dimension: y = e^x / Σ e^x, computed from differences to the maximum, in f32
/// (f64 for f64). x: any shape; negative dims count from the back. A row that is all -inf gives 0
/// and passes no gradient.
OLM_API Tensor softmax(const Tensor& x, int64_t dim = -1);

/// log(softmax(x, dim)), without overflow or loss of small values. A row that is all -inf gives
/// -inf and passes no gradient.
OLM_API Tensor log_softmax(const Tensor& x, int64_t dim = -1);

}  // namespace olm
