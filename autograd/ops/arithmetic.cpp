#include <olm/autograd/ops/arithmetic.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/unary_internal.h>
#include <olm/engine/exact.h>
#include <olm/kernels/base/run.h>

namespace olm {

using kernels::BinaryOp;
using kernels::UnaryOp;

namespace {

Tensor forward(const char* name, BinaryOp op, const Tensor& a, const Tensor& b) {
  require_same_device(name, a, b);
  require_same_dtype(name, a, b);
  const bool integers = a.dtype() != boolean && op != BinaryOp::div && op != BinaryOp::pow;
  require(is_float(a.dtype()) || integers, name, ": wanted a float dtype, got ", a.dtype());
  const Shape shape = broadcast_shapes(name, a.shape(), b.shape());
  const Tensor y = empty(shape, options_of(a));
  run(a.device().kind, over(shape, a,
                            kernels::Binary{.op = op,
                                            .dtype = a.dtype(),
                                            .a = operand(a, shape),
                                            .b = operand(b, shape),
                                            .y = y.mutable_data()}));
  return y;
}

/// Both gradients at the full shape, undefined where not needed. An operand that the wanted
/// derivatives do not read may be undefined.
Grads slopes(BinaryOp op, const Tensor& dy, const Tensor& a, const Tensor& b, Sinks into) {
  const Tensor g = raw::contiguous(dy);
  const Shape& shape = g.shape();
  const Tensor &left = a.defined() ? a : b, &right = b.defined() ? b : a;
  const Tensor da = into[0].needed ? empty_like(g) : Tensor();
  const Tensor db = into[1].needed ? empty_like(g) : Tensor();
  run(g.device().kind, over(shape, g,
                            kernels::BinaryBackward{.op = op,
                                                    .dtype = g.dtype(),
                                                    .dy = g.data(),
                                                    .a = operand(left, shape),
                                                    .b = operand(right, shape),
                                                    .da = memory_or_null(da),
                                                    .db = memory_or_null(db)}));
  return {da, db};
}

Tensor widened(const Saved& x, DType dtype) {
  return x.defined() ? raw::cast(x.get(), dtype) : Tensor();
}

Tensor sum_to(const Tensor& gradient, const Shape& shape, DType dtype) {
  return gradient.defined() ? raw::cast(raw::sum_to(gradient, shape), dtype) : Tensor();
}

/// unary() with the number `a`, which x's dtype must hold.
Tensor with_number(const char* name, UnaryOp op, const Tensor& x, double a) {
  require_exact(name, a, x.dtype());
  return unary(name, op, x, a);
}

/// y = op(a, b), of which the derivatives are those of BinaryBackward.
Tensor binary(const char* name, BinaryOp op, const Tensor& a, const Tensor& b) {
  const Tensor y = forward(name, op, a, b);
  const bool product = op == BinaryOp::mul;
  const bool keep_a = requires_grad(b) || !(product || op == BinaryOp::div);
  const bool keep_b = requires_grad(a) || !product;
  return record(name, y, {a, b},
                [op, a_shape = a.shape(), b_shape = b.shape(), a = keep_a ? saved(a) : Saved(),
                 b = keep_b ? saved(b) : Saved()](const Tensor& dy, Sinks into) -> Grads {
                  // What will be summed is not rounded to a narrow dtype before.
                  const bool sums = a_shape != dy.shape() || b_shape != dy.shape();
                  const DType dtype = dy.dtype(), work = sums ? acc_dtype(dtype) : dtype;
                  const Grads g =
                      slopes(op, raw::cast(dy, work), widened(a, work), widened(b, work), into);
                  return {sum_to(g[0], a_shape, dtype), sum_to(g[1], b_shape, dtype)};
                });
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  return record("add", forward("add", BinaryOp::add, a, b), {a, b},
                [a = a.shape(), b = b.shape()](const Tensor& dy, Sinks into) -> Grads {
                  return {into[0].needed ? raw::sum_to(dy, a) : Tensor(),
                          into[1].needed ? raw::sum_to(dy, b) : Tensor()};
                });
}
Tensor sub(const Tensor& a, const Tensor& b) {
  return record("sub", forward("sub", BinaryOp::sub, a, b), {a, b},
                [a = a.shape(), b = b.shape()](const Tensor& dy, Sinks into) -> Grads {
                  return {into[0].needed ? raw::sum_to(dy, a) : Tensor(),
                          into[1].needed ? neg(raw::sum_to(dy, b)) : Tensor()};
                });
}
Tensor mul(const Tensor& a, const Tensor& b) { return binary("mul", BinaryOp::mul, a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary("div", BinaryOp::div, a, b); }
Tensor pow(const Tensor& a, const Tensor& b) { return binary("pow", BinaryOp::pow, a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) {
  return binary("maximum", BinaryOp::maximum, a, b);
}
Tensor minimum(const Tensor& a, const Tensor& b) {
  return binary("minimum", BinaryOp::minimum, a, b);
}

Tensor add(const Tensor& a, double b) { return with_number("add", UnaryOp::add_scalar, a, b); }
Tensor sub(const Tensor& a, double b) { return with_number("sub", UnaryOp::add_scalar, a, -b); }
Tensor sub(double a, const Tensor& b) { return with_number("sub", UnaryOp::rsub, b, a); }
Tensor mul(const Tensor& a, double b) { return with_number("mul", UnaryOp::mul_scalar, a, b); }
Tensor div(const Tensor& a, double b) { return unary("div", UnaryOp::div_scalar, a, b); }
Tensor div(double a, const Tensor& b) { return unary("div", UnaryOp::rdiv, b, a); }
Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace olm
