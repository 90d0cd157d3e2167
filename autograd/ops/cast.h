#pragma once
#include <olm/autograd/tape.h>

namespace olm {

/// x in another dtype; x itself if it has it already. Floats round to nearest even; to integers
/// they are cut towards zero and leave the graph; to bool, what is not 0 is true.
OLM_API Tensor cast(const Tensor& x, DType dtype);

/// x itself if its elements lie in row-major order without gaps, else a copy that does.
OLM_API Tensor contiguous(const Tensor& x);

}  // namespace olm
