#include <olm/autograd/ops/pointwise.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/autograd/ops/unary_internal.h>
#include <olm/engine/exact.h>
#include <olm/kernels/base/run.h>

namespace olm {

using kernels::UnaryOp;

Tensor unary(const char* name, UnaryOp op, const Tensor& x, double a, double b) {
  const bool fits = is_float(x.dtype()) || (x.dtype() != boolean && op <= UnaryOp::rsub);
  require(fits, name, ": wanted a float dtype, got ", x.dtype());
  const Tensor from = raw::contiguous(x), y = empty_like(from);
  run(x.device().kind, kernels::Unary{.op = op,
                                      .dtype = x.dtype(),
                                      .x = from.data(),
                                      .y = y.mutable_data(),
                                      .n = x.numel(),
                                      .a = a,
                                      .b = b,
                                      .stream = stream_of(x)});
  const kernels::Needs needs = kernels::unary_needs(op);
  return record(name, y, {x},
                [=, x = needs.x ? saved(from) : Saved(), y = needs.y ? saved(y) : Saved()](
                    const Tensor& dy, Sinks) -> Grads {
                  const Tensor g = raw::contiguous(dy), dx = empty_like(g);
                  run(g.device().kind, kernels::UnaryBackward{.op = op,
                                                              .dtype = g.dtype(),
                                                              .dy = g.data(),
                                                              .x = data_or_null(x.get()),
                                                              .y = data_or_null(y.get()),
                                                              .dx = dx.mutable_data(),
                                                              .n = g.numel(),
                                                              .a = a,
                                                              .b = b,
                                                              .stream = stream_of(g)});
                  return {dx};
                });
}

Tensor neg(const Tensor& x) { return unary("neg", UnaryOp::neg, x); }
Tensor abs(const Tensor& x) { return unary("abs", UnaryOp::abs, x); }
Tensor sign(const Tensor& x) { return unary("sign", UnaryOp::sign, x); }
Tensor square(const Tensor& x) { return unary("square", UnaryOp::square, x); }
Tensor reciprocal(const Tensor& x) { return unary("reciprocal", UnaryOp::reciprocal, x); }
Tensor exp(const Tensor& x) { return unary("exp", UnaryOp::exp, x); }
Tensor log(const Tensor& x) { return unary("log", UnaryOp::log, x); }
Tensor log1p(const Tensor& x) { return unary("log1p", UnaryOp::log1p, x); }
Tensor sqrt(const Tensor& x) { return unary("sqrt", UnaryOp::sqrt, x); }
Tensor rsqrt(const Tensor& x) { return unary("rsqrt", UnaryOp::rsqrt, x); }
Tensor pow(const Tensor& x, double p) {
  if (p == 2) return square(x);
  if (p == 0.5) return sqrt(x);
  if (p == -0.5) return rsqrt(x);
  if (p == -1) return reciprocal(x);
  return unary("pow", UnaryOp::pow_scalar, x, p);
}
Tensor sin(const Tensor& x) { return unary("sin", UnaryOp::sin, x); }
Tensor cos(const Tensor& x) { return unary("cos", UnaryOp::cos, x); }
Tensor erf(const Tensor& x) { return unary("erf", UnaryOp::erf, x); }
Tensor clamp(const Tensor& x, double low, double high) {
  require(low <= high, "clamp: wanted low <= high, got ", low, " and ", high);
  for (const double bound : {low, high}) require_exact("clamp", bound, x.dtype());
  return unary("clamp", UnaryOp::clamp, x, low, high);
}

Tensor tanh(const Tensor& x) { return unary("tanh", UnaryOp::tanh, x); }
Tensor sigmoid(const Tensor& x) { return unary("sigmoid", UnaryOp::sigmoid, x); }
Tensor relu(const Tensor& x) { return unary("relu", UnaryOp::relu, x); }
Tensor relu_squared(const Tensor& x) { return unary("relu_squared", UnaryOp::relu_squared, x); }
Tensor leaky_relu(const Tensor& x, double slope) {
  return unary("leaky_relu", UnaryOp::leaky_relu, x, slope);
}
Tensor elu(const Tensor& x, double alpha) { return unary("elu", UnaryOp::elu, x, alpha); }
Tensor selu(const Tensor& x) { return unary("selu", UnaryOp::selu, x); }
Tensor gelu(const Tensor& x) { return unary("gelu", UnaryOp::gelu, x); }
Tensor gelu_tanh(const Tensor& x) { return unary("gelu_tanh", UnaryOp::gelu_tanh, x); }
Tensor silu(const Tensor& x) { return unary("silu", UnaryOp::silu, x); }
Tensor mish(const Tensor& x) { return unary("mish", UnaryOp::mish, x); }
Tensor softplus(const Tensor& x, double beta, double threshold) {
  require(beta > 0, "softplus: wanted beta > 0, got ", beta);
  return unary("softplus", UnaryOp::softplus, x, beta, threshold);
}

}  // namespace olm
