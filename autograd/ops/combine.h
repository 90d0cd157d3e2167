#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// Tensors one after another along a dimension. They are of one dtype and device, and of one shape
/// but for that dimension; throws otherwise, or if there is none.
OLM_API Tensor cat(const Tensors& xs, int64_t dim = 0);

/// Tensors of one shape along a new dimension at `dim`.
OLM_API Tensor stack(const Tensors& xs, int64_t dim = 0);

}  // namespace olm
