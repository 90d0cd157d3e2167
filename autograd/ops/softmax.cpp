#include <olm/autograd/ops/softmax.h>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/softmax.h>

namespace olm {
namespace {

Tensor softmax_along(const char* op, const Tensor& x, int64_t dim, bool log) {
  require_rows(op, x);
  require(dim >= -x.rank() && dim < x.rank(), op, ": x ", x.shape(), " has no dimension ", dim);

  const Tensor rows = raw::contiguous(raw::transpose(x, dim, -1)), y = empty_like(rows);
  run(x.device().kind, kernels::SoftmaxForward{.dtype = x.dtype(),
                                               .y = y.mutable_data(),
                                               .x = rows.data(),
                                               .rows = leading_size(rows),
                                               .cols = rows.size(-1),
                                               .log = log,
                                               .stream = stream_of(x)});

  return record(op, raw::transpose(y, dim, -1), {x},
                [dim, log, y = saved(y)](const Tensor& dy, Sinks) -> Grads {
                  const Tensor g = raw::contiguous(raw::transpose(dy, dim, -1));
                  const Tensor dx = empty_like(g);
                  run(g.device().kind, kernels::SoftmaxBackward{.dtype = g.dtype(),
                                                                .dx = dx.mutable_data(),
                                                                .dy = g.data(),
                                                                .y = y.get().data(),
                                                                .rows = leading_size(g),
                                                                .cols = g.size(-1),
                                                                .log = log,
                                                                .stream = stream_of(g)});
                  return {raw::transpose(dx, dim, -1)};
                });
}

}  // namespace

Tensor softmax(const Tensor& x, int64_t dim) { return softmax_along("softmax", x, dim, false); }

Tensor log_softmax(const Tensor& x, int64_t dim) {
  return softmax_along("log_softmax", x, dim, true);
}

}  // namespace olm
