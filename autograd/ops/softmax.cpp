#include <olm/autograd/ops/softmax.h>

#include <olm/engine/raw.h>
#include <olm/kernels/softmax.h>

namespace olm {
namespace {

/// Both, along the last dimension.
Tensor softmax_rows(const Tensor& x, bool log) {
  const Tensor xc = raw::contiguous(x), y = empty_like(xc);
  run(x.device().kind, kernels::SoftmaxForward{.dtype = x.dtype(),
                                               .y = y.mutable_data(),
                                               .x = xc.data(),
                                               .rows = leading_size(x),
                                               .cols = x.size(-1),
                                               .log = log,
                                               .stream = stream_of(x)});
  return y;
}

Tensor softmax_rows_backward(const Tensor& dy, const Tensor& y, bool log) {
  const Tensor g = raw::contiguous(dy), dx = empty_like(g);
  run(g.device().kind, kernels::SoftmaxBackward{.dtype = g.dtype(),
                                                .dx = dx.mutable_data(),
                                                .dy = g.data(),
                                                .y = y.data(),
                                                .rows = leading_size(g),
                                                .cols = g.size(-1),
                                                .log = log,
                                                .stream = stream_of(g)});
  return dx;
}

Tensor softmax_along(const char* op, const Tensor& x, int64_t dim, bool log) {
  require_float(op, x);
  require(x.rank() >= 1, op, ": wanted x with at least one dimension, got a scalar");
  require(dim >= -x.rank() && dim < x.rank(), op, ": x ", x.shape(), " has no dimension ", dim);
  const Tensor rows = softmax_rows(raw::transpose(x, dim, -1), log);
  return record(op, raw::transpose(rows, dim, -1), {x},
                [dim, log, y = saved(rows)](const Tensor& dy, Sinks) -> Grads {
                  const Tensor g = raw::transpose(dy, dim, -1);
                  return {raw::transpose(softmax_rows_backward(g, y.get(), log), dim, -1)};
                });
}

}  // namespace

Tensor softmax(const Tensor& x, int64_t dim) { return softmax_along("softmax", x, dim, false); }

Tensor log_softmax(const Tensor& x, int64_t dim) {
  return softmax_along("log_softmax", x, dim, true);
}

}  // namespace olm
