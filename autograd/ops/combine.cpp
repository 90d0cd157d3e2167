#include <olm/autograd/ops/combine.h>

#include <olm/engine/raw.h>

namespace olm {
namespace {

void require_alike(const char* op, const Tensors& xs) {
  require(!xs.empty(), op, ": wanted at least one tensor, got none");
  for (const Tensor& x : xs) {
    require_same_device(op, xs[0], x);
    require_same_dtype(op, xs[0], x);
  }
}

}  // namespace

Tensor cat(const Tensors& xs, int64_t dim) {
  require_alike("cat", xs);
  const int d = normalize_dim("cat", dim, xs[0].rank());
  Shape shape = xs[0].shape();
  shape[d] = 0;
  std::vector<int64_t> sizes;
  for (const Tensor& x : xs) {
    Shape rest = x.shape();
    const bool fits = rest.rank() == shape.rank();
    if (fits) rest[d] = shape[d];
    require(fits && rest == shape, "cat: shapes ", xs[0].shape(), " and ", x.shape(),
            " differ beside dimension ", dim);
    sizes.push_back(x.size(d));
  }
  for (const int64_t size : sizes) shape[d] += size;
  const Tensor y = empty(shape, options_of(xs[0]));
  int64_t at = 0;
  for (size_t i = 0; i < xs.size(); ++i) {
    raw::copy_(raw::slice(y, d, at, at + sizes[i]), xs[i]);
    at += sizes[i];
  }
  return record("cat", y, xs, [d, sizes](const Tensor& dy, Sinks into) {
    Grads grads(sizes.size());
    int64_t from = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (into[i].needed) grads[i] = raw::slice(dy, d, from, from + sizes[i]);
      from += sizes[i];
    }
    return grads;
  });
}

Tensor stack(const Tensors& xs, int64_t dim) {
  require_alike("stack", xs);
  Shape shape = xs[0].shape();
  require(shape.rank() < kMaxRank, "stack: ", shape, " already has ", kMaxRank, " dimensions");
  for (const Tensor& x : xs)
    require(x.shape() == shape, "stack: shapes ", shape, " and ", x.shape(), " differ");
  const int d = normalize_dim("stack", dim, shape.rank() + 1);
  shape.insert(d, int64_t(xs.size()));
  const Tensor y = empty(shape, options_of(xs[0]));
  for (size_t i = 0; i < xs.size(); ++i) raw::copy_(raw::select(y, d, int64_t(i)), xs[i]);
  return record("stack", y, xs, [d](const Tensor& dy, Sinks into) {
    Grads grads(into.size());
    for (size_t i = 0; i < into.size(); ++i)
      if (into[i].needed) grads[i] = raw::select(dy, d, int64_t(i));
    return grads;
  });
}

}  // namespace olm
