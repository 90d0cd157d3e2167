#include <olm/engine/raw.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <olm/engine/backend_internal.h>
#include <olm/engine/exact.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/copy.h>
#include <olm/kernels/reduce.h>

namespace olm::raw {
namespace {

Tensor window(const Tensor& x, const Shape& shape, const Shape& strides, int64_t offset) {
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = x.impl().storage;
  impl->shape = shape;
  impl->strides = strides;
  impl->offset = offset;
  impl->dtype = x.dtype();
  return Tensor(std::move(impl));
}

kernels::Copy copy_call(const Tensor& x, void* y, DType to, const Shape& y_strides) {
  kernels::Copy k{.from = x.dtype(), .to = to, .x = x.data(), .y = y, .rank = x.rank()};
  for (int i = 0; i < x.rank(); ++i) {
    k.shape[size_t(i)] = x.shape()[i];
    k.x_strides[size_t(i)] = x.strides()[i];
    k.y_strides[size_t(i)] = y_strides[i];
  }
  k.stream = stream_of(x);
  return k;
}

/// Strides of x seen under `shape`, or nothing where that needs a copy.
std::optional<Shape> view_strides(const Tensor& x, const Shape& shape) {
  if (x.is_contiguous()) return contiguous_strides(shape);
  Shape sizes, steps;  // x's dimensions with those merged that continue each other
  for (int i = 0; i < x.rank(); ++i) {
    if (x.shape()[i] == 1) continue;
    const int last = sizes.rank() - 1;
    if (last >= 0 && steps[last] == x.strides()[i] * x.shape()[i]) {
      sizes[last] *= x.shape()[i];
      steps[last] = x.strides()[i];
    } else {
      sizes.push_back(x.shape()[i]);
      steps.push_back(x.strides()[i]);
    }
  }
  Shape strides = shape;
  int run = sizes.rank() - 1;
  int64_t done = 1;  // elements of this run that the new dimensions cover so far
  for (int to = shape.rank() - 1; to >= 0; --to) {
    strides[to] = 1;
    if (shape[to] == 1) continue;
    if (run < 0) return {};
    strides[to] = steps[run] * done;
    done *= shape[to];
    if (sizes[run] % done != 0) return {};
    if (done == sizes[run]) --run, done = 1;
  }
  return strides;
}

/// Sums over dimensions [first, end), which become 1.
Tensor sum_dims(const Tensor& x, int first, int end) {
  const Tensor from = contiguous(x);
  Shape shape = x.shape();
  int64_t outer = 1, reduced = 1, inner = 1;
  for (int i = 0; i < first; ++i) outer *= shape[i];
  for (int i = first; i < end; ++i) reduced *= std::exchange(shape[i], 1);
  for (int i = end; i < shape.rank(); ++i) inner *= shape[i];
  const Tensor y = empty(shape, options_of(x));
  run(x.device().kind, kernels::Reduce{.op = kernels::ReduceOp::sum,
                                       .dtype = x.dtype(),
                                       .x = from.data(),
                                       .y = y.mutable_data(),
                                       .outer = outer,
                                       .reduced = reduced,
                                       .inner = inner,
                                       .stream = stream_of(x)});
  return y;
}

/// True where writing dst element by element changes elements of src that are still to be read.
bool is_clobbered(const Tensor& src, const Tensor& dst) {
  return src.impl().storage == dst.impl().storage &&
         (src.strides() != dst.strides() || src.dtype() != dst.dtype() ||
          src.storage_offset() != dst.storage_offset());
}

void require_one_place_each(const char* op, const Tensor& dst) {
  for (int i = 0; i < dst.rank(); ++i)
    require(dst.strides()[i] != 0 || dst.shape()[i] <= 1 || dst.numel() == 0, op, ": elements of ",
            dst.shape(), " with strides ", dst.strides(),
            " share memory, so they cannot be written");
}

}  // namespace

Tensor alias(const Tensor& x) { return window(x, x.shape(), x.strides(), x.storage_offset()); }

Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

Tensor clone(const Tensor& x) {
  const Tensor y = empty_like(x);
  run(x.device().kind, copy_call(x, y.mutable_data(), y.dtype(), y.strides()));
  return y;
}

Tensor view(const Tensor& x, const Shape& wanted) {
  const Shape shape = infer_shape("view", wanted, x.numel());
  const auto strides = view_strides(x, shape);
  require(strides.has_value(), "view: strides ", x.strides(), " of ", x.shape(), " do not allow ",
          shape, " without a copy; use reshape");
  return window(x, shape, *strides, x.storage_offset());
}

Tensor reshape(const Tensor& x, const Shape& wanted) {
  const Shape shape = infer_shape("reshape", wanted, x.numel());
  return view(view_strides(x, shape) ? x : clone(x), shape);
}

Tensor as_strided(const Tensor& x, const Shape& shape, const Shape& strides, int64_t offset) {
  require(shape.rank() == strides.rank(), "as_strided: shape ", shape, " and strides ", strides,
          " differ in rank");
  int64_t low = offset, high = offset;
  for (int i = 0; i < shape.rank(); ++i)
    (strides[i] < 0 ? low : high) += std::max<int64_t>(shape[i] - 1, 0) * strides[i];
  const auto elements = int64_t(x.impl().storage->bytes() / size_of(x.dtype()));
  require(shape.numel() == 0 || (low >= 0 && high < elements), "as_strided: ", shape,
          " with strides ", strides, " from ", offset, " leaves a storage of ", elements,
          " elements");
  return window(x, shape, strides, offset);
}

Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1) {
  const int a = normalize_dim("transpose", dim0, x.rank());
  const int b = normalize_dim("transpose", dim1, x.rank());
  Shape shape = x.shape(), strides = x.strides();
  std::swap(shape[a], shape[b]);
  std::swap(strides[a], strides[b]);
  return window(x, shape, strides, x.storage_offset());
}

Tensor permute(const Tensor& x, const Shape& order) {
  require(order.rank() == x.rank(), "permute: order ", order, " does not fit shape ", x.shape());
  Shape shape = x.shape(), strides = x.strides();
  unsigned seen = 0;
  for (int i = 0; i < order.rank(); ++i) {
    const int from = normalize_dim("permute", order[i], x.rank());
    require(!(seen >> from & 1u), "permute: order ", order, " names a dimension twice");
    seen |= 1u << from;
    shape[i] = x.shape()[from];
    strides[i] = x.strides()[from];
  }
  return window(x, shape, strides, x.storage_offset());
}

Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t end, int64_t step) {
  const int d = normalize_dim("slice", dim, x.rank());
  const int64_t size = x.shape()[d];
  require(step >= 1, "slice: wanted a step of at least 1, got ", step);
  if (start < 0) start += size;
  if (end < 0) end += size;
  start = std::clamp<int64_t>(start, 0, size);
  end = std::clamp<int64_t>(end, start, size);
  Shape shape = x.shape(), strides = x.strides();
  shape[d] = (end - start + step - 1) / step;
  strides[d] *= step;
  return window(x, shape, strides, x.storage_offset() + start * x.strides()[d]);
}

Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  const int d = normalize_dim("select", dim, x.rank());
  const int64_t size = x.shape()[d], at = index < 0 ? index + size : index;
  require(at >= 0 && at < size, "select: index ", index, " is out of range for dimension ", dim,
          " of ", x.shape());
  Shape shape = x.shape(), strides = x.strides();
  shape.erase(d);
  strides.erase(d);
  return window(x, shape, strides, x.storage_offset() + at * x.strides()[d]);
}

Tensor expand(const Tensor& x, const Shape& wanted) {
  const int added = wanted.rank() - x.rank();
  require(added >= 0, "expand: shape ", x.shape(), " does not expand to ", wanted);
  Shape shape = wanted, strides = wanted;
  for (int i = 0; i < wanted.rank(); ++i) {
    const int64_t have = i < added ? 1 : x.shape()[i - added];
    if (shape[i] == -1) shape[i] = have;
    require(have == shape[i] || (have == 1 && shape[i] >= 0), "expand: shape ", x.shape(),
            " does not expand to ", wanted);
    strides[i] = have == 1 ? 0 : x.strides()[i - added];
  }
  return window(x, shape, strides, x.storage_offset());
}

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = empty(x.shape(), {dtype, x.device()});
  run(x.device().kind, copy_call(x, y.mutable_data(), dtype, y.strides()));
  return y;
}

Tensor to(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  require_device(device);
  if (device.kind == DeviceKind::meta) return empty(x.shape(), {x.dtype(), device});
  require(x.device().kind != DeviceKind::meta, "to: a tensor on meta has no values to bring to ",
          device);
  const Tensor from = contiguous(x), y = empty(x.shape(), {x.dtype(), device});
  copy_between_devices(y.mutable_data(), device, from.data(), x.device(),
                       size_t(x.numel()) * size_of(x.dtype()));
  return y;
}

void copy_(const Tensor& dst, const Tensor& src) {
  require_same_device("copy_", dst, src);
  require_one_place_each("copy_", dst);
  const Tensor view = expand(src, dst.shape());
  const Tensor x = is_clobbered(view, dst) ? clone(view) : view;
  run(dst.device().kind, copy_call(x, dst.mutable_data(), dst.dtype(), dst.strides()));
}

void fill_(const Tensor& x, double value) {
  if (x.dtype() == boolean) value = value != 0;
  require_exact("fill_", value, x.dtype());
  kernels::Fill k{.dtype = x.dtype(),
                  .y = x.mutable_data(),
                  .rank = x.rank(),
                  .value = value,
                  .whole = is_float(x.dtype()) ? 0 : int64_t(value),
                  .stream = stream_of(x)};
  for (int i = 0; i < x.rank(); ++i) {
    k.shape[size_t(i)] = x.shape()[i];
    k.strides[size_t(i)] = x.strides()[i];
  }
  run(x.device().kind, k);
}

void add_(const Tensor& dst, const Tensor& src, double scale) {
  require_same_device("add_", dst, src);
  require_same_dtype("add_", dst, src);
  require(dst.shape() == src.shape(), "add_: shapes ", dst.shape(), " and ", src.shape(),
          " differ");
  require_float("add_", dst);
  require_one_place_each("add_", dst);
  const Tensor y = contiguous(dst), x = is_clobbered(src, dst) ? clone(src) : contiguous(src);
  run(dst.device().kind, kernels::Axpby{.dtype = y.dtype(),
                                        .x = x.data(),
                                        .y = y.mutable_data(),
                                        .n = y.numel(),
                                        .x_scale = scale,
                                        .stream = stream_of(y)});
  if (!y.is_same(dst)) copy_(dst, y);
}

void scale_(const Tensor& x, double scale) {
  require_float("scale_", x);
  require_one_place_each("scale_", x);
  const Tensor y = contiguous(x);
  run(x.device().kind, kernels::Axpby{.dtype = y.dtype(),
                                      .y = y.mutable_data(),
                                      .n = y.numel(),
                                      .x_scale = 0,
                                      .y_scale = scale,
                                      .stream = stream_of(y)});
  if (!y.is_same(x)) copy_(x, y);
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  const int added = x.rank() - shape.rank();
  require(added >= 0, "sum_to: ", x.shape(), " does not reduce to ", shape);
  std::vector<std::pair<int, int>> runs;  // [first, end) of neighbouring dimensions to sum over
  for (int i = 0; i < x.rank(); ++i) {
    const int64_t want = i < added ? 1 : shape[i - added], have = x.shape()[i];
    if (want == have) continue;
    require(want == 1, "sum_to: ", x.shape(), " does not reduce to ", shape);
    if (runs.empty() || runs.back().second != i) runs.push_back({i, i});
    runs.back().second = i + 1;
  }
  // Between two sums nothing is rounded to a narrow dtype.
  Tensor y = runs.size() > 1 && is_float(x.dtype()) ? cast(x, acc_dtype(x.dtype())) : x;
  for (const auto& [first, end] : runs) y = sum_dims(y, first, end);
  return view(cast(y, x.dtype()), shape);
}

bool has_nonfinite(const Tensor& x) {
  if (!is_float(x.dtype()) || x.device().kind == DeviceKind::meta) return false;
  const Tensor y = contiguous(x), found = empty({}, {.dtype = i32, .device = x.device()});
  run(y.device().kind, kernels::FindNonfinite{.dtype = y.dtype(),
                                              .x = y.data(),
                                              .found = static_cast<int32_t*>(found.mutable_data()),
                                              .n = y.numel(),
                                              .stream = stream_of(y)});
  return found.item<int32_t>() != 0;
}

}  // namespace olm::raw
