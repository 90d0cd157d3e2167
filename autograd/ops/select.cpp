#include <olm/autograd/ops/select.h>

#include <algorithm>
#include <numeric>

#include <olm/autograd/ops/kit_internal.h>
#include <olm/kernels/base/math.h>

namespace olm {
namespace {

/// The gradient of a window: dy goes into it, zeros around it. Where the gradient so far may be
/// added to, nothing is allocated.
template <class Window>
Tensor scatter(const Tensor& dy, const Sink& into, Window&& window) {
  if (!into.needed) return {};
  const ParamGrad dx(into, dy.dtype());
  if (dx.accumulates()) {
    raw::add_(window(dx.tensor()), dy);
  } else {
    raw::fill_(dx.tensor(), 0);
    raw::copy_(window(dx.tensor()), dy);
  }
  return dx.result();
}

}  // namespace

Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t end, int64_t step) {
  const auto window = [=](const Tensor& t) { return raw::slice(t, dim, start, end, step); };
  return record("slice", window(x), {x}, [window](const Tensor& dy, Sinks into) -> Grads {
    return {scatter(dy, into[0], window)};
  });
}

Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  const auto window = [=](const Tensor& t) { return raw::select(t, dim, index); };
  return record("select", window(x), {x}, [window](const Tensor& dy, Sinks into) -> Grads {
    return {scatter(dy, into[0], window)};
  });
}

Tensors split(const Tensor& x, const std::vector<int64_t>& sizes, int64_t dim) {
  const int d = normalize_dim("split", dim, x.rank());
  for (const int64_t size : sizes)
    require(size >= 0, "split: wanted sizes of at least 0, got ", size);
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
  require(total == x.size(d), "split: sizes add up to ", total, ", dimension ", dim, " of ",
          x.shape(), " has ", x.size(d));
  Tensors pieces;
  int64_t start = 0;
  for (const int64_t size : sizes) {
    pieces.push_back(raw::slice(x, d, start, start + size));
    start += size;
  }
  return record("split", pieces, {x},
                [d, sizes, shape = x.shape()](const Tensors& dys, Sinks) -> Grads {
                  const Tensor dx = empty(shape, options_of(dys[0]));
                  int64_t at = 0;
                  for (size_t i = 0; i < sizes.size(); ++i) {
                    raw::copy_(raw::slice(dx, d, at, at + sizes[i]), dys[i]);
                    at += sizes[i];
                  }
                  return {dx};
                });
}

Tensors split(const Tensor& x, int64_t size, int64_t dim) {
  require(size >= 1, "split: wanted pieces of at least 1, got ", size);
  const int64_t total = x.size(normalize_dim("split", dim, x.rank()));
  std::vector<int64_t> sizes;
  for (int64_t at = 0; at < total; at += size) sizes.push_back(std::min(size, total - at));
  if (sizes.empty()) sizes.push_back(0);
  return split(x, sizes, dim);
}

Tensors chunk(const Tensor& x, int64_t chunks, int64_t dim) {
  require(chunks >= 1, "chunk: wanted at least 1 chunk, got ", chunks);
  const int64_t total = x.size(normalize_dim("chunk", dim, x.rank()));
  return split(x, std::max<int64_t>(1, kernels::ceil_div(total, chunks)), dim);
}

}  // namespace olm
