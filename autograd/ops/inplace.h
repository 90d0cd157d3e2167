#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// Writing into a tensor. Not recorded: throws where an operand requires a gradient, unless a NoGrad
// guard says that none is wanted. A backward that saved what was overwritten notices and throws.

/// x += scale · y, where y broadcasts to x's shape and has its dtype, a float.
OLM_API void add_(const Tensor& x, const Tensor& y, double scale = 1);
/// x *= scale, of a float dtype.
OLM_API void mul_(const Tensor& x, double scale);
OLM_API void fill_(const Tensor& x, double value);
/// x = y, broadcast and converted to x's dtype.
OLM_API void copy_(const Tensor& x, const Tensor& y);

}  // namespace olm
