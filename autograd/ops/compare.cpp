#include <olm/autograd/ops/compare.h>

#include <olm/autograd/ops/pointwise_internal.h>
#include <olm/engine/exact.h>
#include <olm/kernels/base/run.h>

namespace olm {

using kernels::CompareOp;

namespace {

Tensor compare(const char* name, CompareOp op, const Tensor& a, const Tensor& b) {
  require_same_device(name, a, b);
  require_same_dtype(name, a, b);
  const Shape shape = broadcast_shapes(name, a.shape(), b.shape());
  const Tensor y = empty(shape, {boolean, a.device()});
  run(a.device().kind, over(shape, a,
                            kernels::Compare{.op = op,
                                             .dtype = a.dtype(),
                                             .a = operand(a, shape),
                                             .b = operand(b, shape),
                                             .y = y.mutable_data()}));
  return y;
}

Tensor compare(const char* name, CompareOp op, const Tensor& a, double b) {
  require_exact(name, b, a.dtype());
  return compare(name, op, a, full({}, b, options_of(a)));
}

}  // namespace

Tensor eq(const Tensor& a, const Tensor& b) { return compare("eq", CompareOp::eq, a, b); }
Tensor ne(const Tensor& a, const Tensor& b) { return compare("ne", CompareOp::ne, a, b); }
Tensor lt(const Tensor& a, const Tensor& b) { return compare("lt", CompareOp::lt, a, b); }
Tensor le(const Tensor& a, const Tensor& b) { return compare("le", CompareOp::le, a, b); }
Tensor gt(const Tensor& a, const Tensor& b) { return compare("gt", CompareOp::gt, a, b); }
Tensor ge(const Tensor& a, const Tensor& b) { return compare("ge", CompareOp::ge, a, b); }
Tensor eq(const Tensor& a, double b) { return compare("eq", CompareOp::eq, a, b); }
Tensor ne(const Tensor& a, double b) { return compare("ne", CompareOp::ne, a, b); }
Tensor lt(const Tensor& a, double b) { return compare("lt", CompareOp::lt, a, b); }
Tensor le(const Tensor& a, double b) { return compare("le", CompareOp::le, a, b); }
Tensor gt(const Tensor& a, double b) { return compare("gt", CompareOp::gt, a, b); }
Tensor ge(const Tensor& a, double b) { return compare("ge", CompareOp::ge, a, b); }

Tensor logical_and(const Tensor& a, const Tensor& b) {
  return compare("logical_and", CompareOp::logical_and, a, b);
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return compare("logical_or", CompareOp::logical_or, a, b);
}
Tensor logical_not(const Tensor& x) { return compare("logical_not", CompareOp::eq, x, 0); }
Tensor isnan(const Tensor& x) { return compare("isnan", CompareOp::ne, x, x); }

}  // namespace olm
