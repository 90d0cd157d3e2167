#include <olm/autograd/ops/index.h>

#include <olm/engine/raw.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/index.h>

namespace olm {
namespace {

/// A shape seen as [outer, size of dim, inner].
struct Extents {
  int64_t outer = 1, size = 1, inner = 1;
  Extents(const Shape& shape, int dim) : size(shape[dim]) {
    for (int d = 0; d < dim; ++d) outer *= shape[d];
    for (int d = dim + 1; d < shape.rank(); ++d) inner *= shape[d];
  }
};

/// The part of x that indices of shape `index` can reach: all of `dim`, the front of the others.
Tensor reachable(Tensor x, int dim, const Shape& index) {
  for (int d = 0; d < x.rank(); ++d)
    if (d != dim && x.size(d) != index[d]) x = raw::slice(x, d, 0, index[d]);
  return x;
}

int check_index(const char* op, const Tensor& x, int64_t dim, const Tensor& index) {
  require_index_dtype(op, index);
  require_same_device(op, x, index);
  const int d = normalize_dim(op, dim, x.rank());
  require(index.rank() == x.rank(), op, ": index ", index.shape(), " must have the rank of x ",
          x.shape());
  for (int i = 0; i < x.rank(); ++i)
    require(i == d || index.size(i) <= x.size(i), op, ": index ", index.shape(),
            " reaches outside x ", x.shape(), " in dimension ", i);
  return d;
}

Tensor gather_values(const Tensor& x, int dim, const Tensor& index) {
  const Tensor from = raw::contiguous(reachable(x, dim, index.shape()));
  const Tensor y = empty(index.shape(), options_of(x));
  const Extents e(from.shape(), dim);
  run(x.device().kind, kernels::Gather{.dtype = x.dtype(),
                                       .index_dtype = index.dtype(),
                                       .y = y.mutable_data(),
                                       .x = from.data(),
                                       .index = index.data(),
                                       .outer = e.outer,
                                       .size = e.size,
                                       .count = index.size(dim),
                                       .inner = e.inner,
                                       .stream = stream_of(x)});
  return y;
}

/// Adds src (of index's shape) into y, which is contiguous and of acc_dtype(src).
void scatter_into(const Tensor& y, int dim, const Tensor& index, const Tensor& src) {
  const Tensor window = reachable(y, dim, index.shape());
  const Tensor target = raw::contiguous(window), from = raw::contiguous(src);
  const Extents e(target.shape(), dim);
  run(y.device().kind, kernels::ScatterAdd{.dtype = src.dtype(),
                                           .index_dtype = index.dtype(),
                                           .y = target.mutable_data(),
                                           .src = from.data(),
                                           .index = index.data(),
                                           .outer = e.outer,
                                           .size = e.size,
                                           .count = index.size(dim),
                                           .inner = e.inner,
                                           .stream = stream_of(y)});
  if (!window.is_contiguous()) raw::copy_(window, target);
}

/// src in the front of zeros of a larger shape.
Tensor padded(const Tensor& src, const Shape& shape) {
  if (src.shape() == shape) return src;
  const Tensor y = zeros(shape, options_of(src));
  Tensor front = y;
  for (int d = 0; d < y.rank(); ++d) front = raw::slice(front, d, 0, src.size(d));
  raw::copy_(front, src);
  return y;
}

/// Sums of the slices of dy by index, in a tensor of `shape`.
Tensor add_slices(const Tensor& dy, const Extents& e, const Tensor& ids, const Shape& shape) {
  const Tensor g = raw::contiguous(dy), dx = empty(shape, acc_options(g));
  run(g.device().kind, kernels::IndexAdd{.dtype = g.dtype(),
                                         .index_dtype = ids.dtype(),
                                         .y = dx.mutable_data(),
                                         .src = g.data(),
                                         .index = ids.data(),
                                         .outer = e.outer,
                                         .size = e.size,
                                         .count = ids.numel(),
                                         .inner = e.inner,
                                         .stream = stream_of(g)});
  return raw::cast(dx, g.dtype());
}

}  // namespace

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = check_index("gather", x, dim, index);
  const Tensor ids = raw::contiguous(index);
  return record("gather", gather_values(x, d, ids), {x},
                [d, ids = saved(ids), shape = x.shape()](const Tensor& dy, Sinks) {
                  const Tensor dx = zeros(shape, acc_options(dy));
                  scatter_into(dx, d, ids.get(), dy);
                  return Grads{raw::cast(dx, dy.dtype())};
                });
}

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  require_index_dtype("index_select", index);
  require_same_device("index_select", x, index);
  require(index.rank() == 1, "index_select: wanted a list of indices [K], got ", index.shape());
  const int d = normalize_dim("index_select", dim, x.rank());
  const Tensor from = raw::contiguous(x), ids = raw::contiguous(index);
  const Extents e(x.shape(), d);
  Shape shape = x.shape();
  shape[d] = index.numel();
  const Tensor y = empty(shape, options_of(x));
  run(x.device().kind, kernels::IndexSelect{.dtype = x.dtype(),
                                            .x_dtype = x.dtype(),
                                            .index_dtype = ids.dtype(),
                                            .y = y.mutable_data(),
                                            .x = from.data(),
                                            .index = ids.data(),
                                            .outer = e.outer,
                                            .size = e.size,
                                            .count = ids.numel(),
                                            .inner = e.inner,
                                            .stream = stream_of(x)});
  return record("index_select", y, {x},
                [e, ids = saved(ids), shape = x.shape()](const Tensor& dy, Sinks) {
                  return Grads{add_slices(dy, e, ids.get(), shape)};
                });
}

Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& src) {
  require_float("scatter_add", x);
  require_same_dtype("scatter_add", x, src);
  require_same_device("scatter_add", x, src);
  const int d = check_index("scatter_add", x, dim, index);
  require(src.rank() == x.rank(), "scatter_add: src ", src.shape(), " must have the rank of x ",
          x.shape());
  Tensor part = src;
  for (int i = 0; i < x.rank(); ++i) {
    require(index.size(i) <= src.size(i), "scatter_add: index ", index.shape(),
            " is larger than src ", src.shape());
    part = raw::slice(part, i, 0, index.size(i));
  }
  const Tensor ids = raw::contiguous(index), sums = empty(x.shape(), acc_options(x));
  raw::copy_(sums, x);
  scatter_into(sums, d, ids, part);
  return record("scatter_add", raw::cast(sums, x.dtype()), {x, src},
                [d, ids = saved(ids), shape = src.shape()](const Tensor& dy, Sinks into) {
                  Grads grads(2);
                  if (into[0].needed) grads[0] = dy;
                  if (into[1].needed) grads[1] = padded(gather_values(dy, d, ids.get()), shape);
                  return grads;
                });
}

Tensor one_hot(const Tensor& ids, int64_t classes, DType dtype) {
  require_index_dtype("one_hot", ids);
  require(classes > 0, "one_hot: wanted at least one class, got ", classes);
  const Tensor index = raw::contiguous(ids);
  Shape shape = ids.shape();
  shape.push_back(classes);
  const Tensor y = empty(shape, {dtype, ids.device()});
  run(ids.device().kind, kernels::OneHot{.dtype = dtype,
                                         .index_dtype = ids.dtype(),
                                         .y = y.mutable_data(),
                                         .index = index.data(),
                                         .size = classes,
                                         .count = ids.numel(),
                                         .stream = stream_of(ids)});
  return y;
}

}  // namespace olm
