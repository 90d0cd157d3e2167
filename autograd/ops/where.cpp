#include <olm/autograd/ops/where.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/pointwise_internal.h>
#include <olm/engine/exact.h>
#include <olm/kernels/base/run.h>

namespace olm {
namespace {

Tensor choose(const char* name, const Tensor& condition, const Tensor& a, const Tensor& b) {
  require(condition.dtype() == boolean, name, ": wanted a bool condition, got ", condition.dtype());
  require_same_device(name, condition, a);
  require_same_device(name, a, b);
  require_same_dtype(name, a, b);
  const Shape both = broadcast_shapes(name, a.shape(), b.shape());
  const Shape shape = broadcast_shapes(name, condition.shape(), both);
  const Tensor y = empty(shape, options_of(a));
  run(a.device().kind, over(shape, a,
                            kernels::Where{.dtype = a.dtype(),
                                           .condition = operand(condition, shape),
                                           .a = operand(a, shape),
                                           .b = operand(b, shape),
                                           .y = y.mutable_data()}));
  return y;
}

Tensor where_named(const char* name, const Tensor& condition, const Tensor& a, const Tensor& b) {
  return record(name, choose(name, condition, a, b), {a, b},
                [=, a_shape = a.shape(), b_shape = b.shape(), condition = saved(condition)](
                    const Tensor& dy, Sinks into) -> Grads {
                  const Tensor zero = zeros({}, options_of(dy));
                  Tensor da, db;
                  if (into[0].needed)
                    da = raw::sum_to(choose(name, condition.get(), dy, zero), a_shape);
                  if (into[1].needed)
                    db = raw::sum_to(choose(name, condition.get(), zero, dy), b_shape);
                  return {da, db};
                });
}

/// A number as a tensor of x's dtype, which must hold it.
Tensor number(const char* name, double value, const Tensor& x) {
  if (x.dtype() != boolean) require_exact(name, value, x.dtype());
  return full({}, value, options_of(x));
}

/// [rows, cols] of the last two dimensions of x: true where column <= row + diagonal.
Tensor lower(const char* name, const Tensor& x, int64_t diagonal) {
  require(x.rank() >= 2, name, ": wanted at least two dimensions, got ", x.shape());
  const int64_t rows = x.size(-2), cols = x.size(-1);
  const TensorOptions options{.dtype = i64, .device = x.device()};
  const Tensor row = raw::view(arange(rows, options), {rows, 1}), col = arange(cols, options);
  return le(sub(col, double(diagonal)), row);
}

}  // namespace

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return where_named("where", condition, a, b);
}
Tensor where(const Tensor& condition, const Tensor& a, double b) {
  return where_named("where", condition, a, number("where", b, a));
}
Tensor where(const Tensor& condition, double a, const Tensor& b) {
  return where_named("where", condition, number("where", a, b), b);
}

Tensor masked_fill(const Tensor& x, const Tensor& mask, double value) {
  require(broadcast_shapes("masked_fill", x.shape(), mask.shape()) == x.shape(),
          "masked_fill: mask ", mask.shape(), " does not broadcast to ", x.shape());
  return where_named("masked_fill", mask, number("masked_fill", value, x), x);
}

Tensor tril(const Tensor& x, int64_t diagonal) {
  return where_named("tril", lower("tril", x, diagonal), x, zeros({}, options_of(x)));
}
Tensor triu(const Tensor& x, int64_t diagonal) {
  return where_named("triu", lower("triu", x, diagonal - 1), zeros({}, options_of(x)), x);
}

}  // namespace olm
