#include <olm/engine/tensor.h>

#include <cstring>

#include <olm/engine/backend_internal.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/run.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/copy.h>

namespace olm {

int64_t Tensor::size(int64_t dim) const { return shape()[normalize_dim("size", dim, rank())]; }
int64_t Tensor::stride(int64_t dim) const {
  return strides()[normalize_dim("stride", dim, rank())];
}

bool Tensor::is_contiguous() const {
  if (numel() == 0) return true;
  int64_t step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape()[i] == 1) continue;
    if (strides()[i] != step) return false;
    step *= shape()[i];
  }
  return true;
}

const void* Tensor::data() const {
  const auto* bytes = static_cast<const char*>(checked().storage->data());
  return bytes ? bytes + storage_offset() * int64_t(size_of(dtype())) : nullptr;
}

void* Tensor::mutable_data() const {
  checked().storage->bump_version();
  return const_cast<void*>(data());
}

void Tensor::require_dtype(DType wanted) const {
  require(dtype() == wanted, "tensor: data of dtype ", dtype(), " was asked for as ", wanted);
  require(device().kind != DeviceKind::cuda, "tensor: data on ", device(),
          " was asked for on the host; bring it there with to()");
}

double Tensor::item_as_double() const {
  require(numel() == 1, "item: wanted a tensor with one element, got ", shape());
  require(device().kind != DeviceKind::meta, "item: a tensor on meta has no values");
  return to_host<double>(*this)[0];
}

Tensor empty(const Shape& shape, TensorOptions options) {
  require_device(options.device);
  int64_t n = 1;
  for (int64_t size : shape) {
    require(size >= 0, "empty: sizes cannot be negative, got ", shape);
    require(!__builtin_mul_overflow(n, size, &n) && n < (int64_t(1) << 58), "empty: shape ", shape,
            " is too large");
  }
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = std::make_shared<Storage>(size_t(n) * size_of(options.dtype), options.device);
  impl->shape = shape;
  impl->strides = contiguous_strides(shape);
  impl->dtype = options.dtype;
  return Tensor(std::move(impl));
}

Tensor empty_like(const Tensor& x) { return empty(x.shape(), options_of(x)); }
Tensor zeros(const Shape& shape, TensorOptions options) { return full(shape, 0, options); }
Tensor zeros_like(const Tensor& x) { return zeros(x.shape(), options_of(x)); }
Tensor ones(const Shape& shape, TensorOptions options) { return full(shape, 1, options); }
Tensor ones_like(const Tensor& x) { return ones(x.shape(), options_of(x)); }

Tensor full(const Shape& shape, double value, TensorOptions options) {
  Tensor y = empty(shape, options);
  raw::fill_(y, value);
  return y;
}

namespace {
/// Element i is make(i), brought to the wanted dtype. Threads share the work, so make(i) must not
/// depend on what was made before.
template <class T, class Make>
Tensor generate(const Shape& shape, TensorOptions options, Make make) {
  if (options.device.kind == DeviceKind::meta) return empty(shape, options);
  constexpr int64_t kChunk = 2048;
  const Tensor host = empty(shape, {.dtype = options.dtype});
  auto* to = static_cast<std::byte*>(host.mutable_data());
  kernels::parallel_for(host.numel(), kChunk, [&](int64_t begin, int64_t end) {
    T chunk[kChunk];
    for (int64_t i = begin; i < end; ++i) chunk[i - begin] = make(i);
    kernels::run(kernels::Cpu{}, kernels::Copy{.from = dtype_of<T>,
                                               .to = options.dtype,
                                               .x = chunk,
                                               .y = to + begin * int64_t(size_of(options.dtype)),
                                               .rank = 1,
                                               .shape = {end - begin},
                                               .x_strides = {1},
                                               .y_strides = {1}});
  });
  return raw::to(host, options.device);
}

/// The same of random numbers: draw(g) takes one from a generator that is as far as `rng` would be.
template <class T, class Draw>
Tensor generate_random(const Shape& shape, Generator& rng, TensorOptions options, Draw draw) {
  constexpr uint64_t kWords = Generator::kWordsPerNumber;
  const uint64_t begin = rng.offset();
  const Tensor y = generate<T>(shape, options, [&](int64_t i) {
    Generator g(rng.seed(), begin + kWords * uint64_t(i));
    return draw(g);
  });
  if (options.device.kind != DeviceKind::meta) rng.reserve(kWords * uint64_t(shape.numel()));
  return y;
}
}  // namespace

Tensor arange(int64_t n, TensorOptions options) {
  require(n >= 0, "arange: wanted a length of at least 0, got ", n);
  const Tensor y = empty({n}, options);
  kernels::run(options.device.kind,
               kernels::Arange{
                   .dtype = options.dtype, .y = y.mutable_data(), .n = n, .stream = stream_of(y)});
  return y;
}
Tensor randn(const Shape& shape, Generator& rng, TensorOptions options) {
  require(is_float(options.dtype), "randn: wanted a float dtype, got ", options.dtype);
  return generate_random<double>(shape, rng, options, [](Generator& g) { return g.normal(); });
}
Tensor uniform(const Shape& shape, Generator& rng, TensorOptions options) {
  require(is_float(options.dtype), "uniform: wanted a float dtype, got ", options.dtype);
  return generate_random<double>(shape, rng, options, [](Generator& g) { return g.uniform(); });
}
Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& rng,
               TensorOptions options) {
  require(low < high, "randint: wanted low < high, got [", low, ", ", high, ")");
  return generate_random<int64_t>(shape, rng, options,
                                  [&](Generator& g) { return low + g.below(high - low); });
}

template <class T>
Tensor from_host(std::span<const T> values, const Shape& shape, Device device) {
  require(int64_t(values.size()) == shape.numel(), "from_host: ", values.size(),
          " values do not fill ", shape);
  Tensor host = empty(shape, {.dtype = dtype_of<T>});
  if (!values.empty()) std::memcpy(host.mutable_data(), values.data(), values.size_bytes());
  return raw::to(host, device);
}

template <class T>
std::vector<T> to_host(const Tensor& x) {
  require(x.device().kind != DeviceKind::meta, "to_host: a tensor on meta has no values");
  const Tensor host = raw::contiguous(raw::cast(raw::to(x, cpu), dtype_of<T>));
  const T* p = host.data<T>();
  return std::vector<T>(p, p + host.numel());
}

template <>
Tensor from_host(std::span<const bool> values, const Shape& shape, Device device) {
  require(int64_t(values.size()) == shape.numel(), "from_host: ", values.size(),
          " values do not fill ", shape);
  Tensor host = empty(shape, {.dtype = boolean});
  std::copy(values.begin(), values.end(), host.mutable_data<bool>());
  return raw::to(host, device);
}

#define OLM_INSTANTIATE(T)                                                     \
  template OLM_API Tensor from_host(std::span<const T>, const Shape&, Device); \
  template OLM_API std::vector<T> to_host(const Tensor&);
OLM_INSTANTIATE(float)
OLM_INSTANTIATE(double)
OLM_INSTANTIATE(bfloat16_t)
OLM_INSTANTIATE(float16_t)
OLM_INSTANTIATE(int32_t)
OLM_INSTANTIATE(int64_t)
#undef OLM_INSTANTIATE
template OLM_API std::vector<bool> to_host(const Tensor&);

kernels::Stream stream_of(const Tensor& x) {
  if (x.device().kind == DeviceKind::meta) return {};
#if OLM_CUDA
  if (x.device().kind == DeviceKind::cuda) return cuda_backend::stream(x.device().index);
#endif
  return {.source = &allocator_of(x.device())};
}

int64_t leading_size(const Tensor& x) {
  int64_t n = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) n *= x.shape()[i];
  return n;
}

void require_same_device(const char* op, const Tensor& a, const Tensor& b) {
  require(a.device() == b.device(), op, ": tensors are on different devices, ", a.device(), " and ",
          b.device());
}
void require_same_dtype(const char* op, const Tensor& a, const Tensor& b) {
  require(a.dtype() == b.dtype(), op, ": dtypes ", a.dtype(), " and ", b.dtype(),
          " do not mix; cast one of them");
}
void require_float(const char* op, const Tensor& x) {
  require(is_float(x.dtype()), op, ": wanted a float dtype, got ", x.dtype(), " ", x.shape());
}
void require_index_dtype(const char* op, const Tensor& ids) {
  require(ids.dtype() == i32 || ids.dtype() == i64, op, ": wanted ids of dtype i32 or i64, got ",
          ids.dtype(), " ", ids.shape());
}
void require_parameter_dtype(const char* op, const Tensor& parameter, const Tensor& x) {
  require(parameter.dtype() == x.dtype() || parameter.dtype() == acc_dtype(x.dtype()), op,
          ": a parameter of dtype ", parameter.dtype(), " does not go with x of dtype ", x.dtype(),
          "; activations of ", parameter.dtype(), " (Context::dtype) or parameters of ",
          acc_dtype(x.dtype()), " (Module::to) were wanted");
}

}  // namespace olm
