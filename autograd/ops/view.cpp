#include <olm/autograd/ops/view.h>

#include <olm/engine/raw.h>

namespace olm {
namespace {

/// y has x's elements in x's row-major order.
Tensor record_reshaped(const char* op, const Tensor& y, const Tensor& x) {
  return record(op, y, {x}, [shape = x.shape()](const Tensor& dy, Sinks) {
    return Grads{raw::view(raw::contiguous(dy), shape)};
  });
}

}  // namespace

Tensor view(const Tensor& x, const Shape& shape) {
  return record_reshaped("view", raw::view(x, shape), x);
}

Tensor reshape(const Tensor& x, const Shape& shape) {
  return record_reshaped("reshape", raw::reshape(x, shape), x);
}

Tensor flatten(const Tensor& x, int64_t start, int64_t end) {
  if (x.rank() == 0) return reshape(x, {1});
  const int first = normalize_dim("flatten", start, x.rank());
  const int last = normalize_dim("flatten", end, x.rank());
  require(first <= last, "flatten: dimension ", start, " comes after ", end, " in ", x.shape());
  Shape shape;
  for (int d = 0; d < x.rank(); ++d)
    if (d > first && d <= last)
      shape[first] *= x.size(d);
    else
      shape.push_back(x.size(d));
  return reshape(x, shape);
}

Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1) {
  return record("transpose", raw::transpose(x, dim0, dim1), {x},
                [=](const Tensor& dy, Sinks) { return Grads{raw::transpose(dy, dim0, dim1)}; });
}

Tensor permute(const Tensor& x, const Shape& order) {
  const Tensor y = raw::permute(x, order);
  Shape back = order;
  for (int d = 0; d < order.rank(); ++d) back[normalize_dim("permute", order[d], x.rank())] = d;
  return record("permute", y, {x},
                [back](const Tensor& dy, Sinks) { return Grads{raw::permute(dy, back)}; });
}

Tensor expand(const Tensor& x, const Shape& shape) {
  return record("expand", raw::expand(x, shape), {x}, [from = x.shape()](const Tensor& dy, Sinks) {
    return Grads{raw::sum_to(dy, from)};
  });
}

Tensor squeeze(const Tensor& x) {
  Shape shape;
  for (const int64_t size : x.shape())
    if (size != 1) shape.push_back(size);
  return record_reshaped("squeeze", raw::view(x, shape), x);
}

Tensor squeeze(const Tensor& x, int64_t dim) {
  const int d = normalize_dim("squeeze", dim, x.rank());
  Shape shape = x.shape();
  if (shape[d] == 1) shape.erase(d);
  return record_reshaped("squeeze", raw::view(x, shape), x);
}

Tensor unsqueeze(const Tensor& x, int64_t dim) {
  require(x.rank() < kMaxRank, "unsqueeze: ", x.shape(), " already has ", kMaxRank, " dimensions");
  Shape shape = x.shape();
  shape.insert(normalize_dim("unsqueeze", dim, x.rank() + 1), 1);
  return record_reshaped("unsqueeze", raw::view(x, shape), x);
}

}  // namespace olm
