#include <olm/autograd/ops/cumsum.h>

#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/scan.h>

namespace olm {
namespace {

Tensor scan(const Tensor& x, int dim, bool reverse) {
  const Tensor from = raw::contiguous(is_float(x.dtype()) ? x : raw::cast(x, i64));
  const Tensor y = empty_like(from);
  int64_t outer = 1, inner = 1;
  for (int d = 0; d < dim; ++d) outer *= x.size(d);
  for (int d = dim + 1; d < x.rank(); ++d) inner *= x.size(d);
  run(x.device().kind, kernels::Cumsum{.dtype = from.dtype(),
                                       .y = y.mutable_data(),
                                       .x = from.data(),
                                       .outer = outer,
                                       .size = x.size(dim),
                                       .inner = inner,
                                       .reverse = reverse,
                                       .stream = stream_of(x)});
  return y;
}

}  // namespace

Tensor cumsum(const Tensor& x, int64_t dim) {
  const int d = normalize_dim("cumsum", dim, x.rank());
  return record("cumsum", scan(x, d, false), {x},
                [d](const Tensor& dy, Sinks) { return Grads{scan(dy, d, true)}; });
}

}  // namespace olm
