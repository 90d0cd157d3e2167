#pragma once
// What every op of one operand calls.
#include <olm/autograd/ops/pointwise_internal.h>
#include <olm/autograd/tape.h>

namespace olm {

/// y = op(x) with parameters a and b, recorded as `name`.
Tensor unary(const char* name, kernels::UnaryOp op, const Tensor& x, double a = 0, double b = 0);

}  // namespace olm
