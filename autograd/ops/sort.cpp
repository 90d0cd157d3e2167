#include <olm/autograd/ops/sort.h>

#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/sort.h>

namespace olm {
namespace {

/// The first `count` elements along `dim` in order, outside the graph.
Sorted first_in_order(const Tensor& x, int dim, int64_t count, bool descending, bool with_values) {
  const int last = x.rank() - 1;
  const Tensor rows = raw::contiguous(raw::transpose(x, dim, last));
  Shape shape = rows.shape();
  shape[last] = count;
  Sorted result;
  if (with_values) result.values = empty(shape, options_of(x));
  result.indices = empty(shape, {i64, x.device()});
  run(x.device().kind, kernels::Sort{.dtype = x.dtype(),
                                     .values = memory_or_null(result.values),
                                     .indices = result.indices.mutable_data(),
                                     .x = rows.data(),
                                     .rows = leading_size(rows),
                                     .cols = rows.size(-1),
                                     .count = count,
                                     .descending = descending,
                                     .stream = stream_of(x)});
  for (Tensor* t : {&result.values, &result.indices})
    if (t->defined()) *t = raw::contiguous(raw::transpose(*t, dim, last));
  return result;
}

/// Values lead back to where they came from.
Sorted record_order(const char* op, const Tensor& x, int dim, int64_t count, bool descending) {
  const Sorted order = first_in_order(x, dim, count, descending, true);
  Tensors results =
      record(op, {order.values, order.indices}, {x},
             [dim, indices = saved(order.indices), shape = x.shape()](const Tensors& dys, Sinks) {
               const Tensor zero = zeros(shape, options_of(dys[0]));
               return Grads{scatter_add(zero, dim, indices.get(), dys[0])};
             });
  return {results[0], results[1]};
}

}  // namespace

Sorted topk(const Tensor& x, int64_t k, int64_t dim) {
  const int d = normalize_dim("topk", dim, x.rank());
  require(k >= 0 && k <= x.size(d), "topk: wanted ", k, " of the ", x.size(d),
          " elements of dimension ", d, " of ", x.shape());
  return record_order("topk", x, d, k, true);
}

Sorted sort(const Tensor& x, int64_t dim, bool descending) {
  const int d = normalize_dim("sort", dim, x.rank());
  return record_order("sort", x, d, x.size(d), descending);
}

Tensor argsort(const Tensor& x, int64_t dim, bool descending) {
  const int d = normalize_dim("argsort", dim, x.rank());
  return first_in_order(x, d, x.size(d), descending, false).indices;
}

}  // namespace olm
