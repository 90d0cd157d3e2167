#pragma once
// Tensor: memory with a shape.
#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <span>
#include <vector>

#include <olm/engine/device.h>
#include <olm/engine/shape.h>
#include <olm/engine/storage.h>
#include <olm/kernels/base/types.h>

namespace olm {

/// What a new tensor is made of.
struct TensorOptions {
  DType dtype = f32;
  Device device = cpu;
};

/// Base of what autograd hangs on a tensor; opaque to the engine.
class OLM_API AutogradSlot {
 public:
  virtual ~AutogradSlot() = default;
};

/// What a Tensor refers to.
struct TensorImpl {
  std::shared_ptr<Storage> storage;
  Shape shape, strides;
  int64_t offset = 0;  // in elements
  DType dtype = f32;
  std::shared_ptr<AutogradSlot> autograd;
};

/// A handle to an n-dimensional array: storage, shape, strides, offset and element type. Copying
/// copies the handle. Methods only ask; functions that compute are in autograd/ops.h.
class OLM_API Tensor {
 public:
  Tensor() = default;
  explicit Tensor(std::shared_ptr<TensorImpl> impl) : impl_(std::move(impl)) {}

  bool defined() const { return impl_ != nullptr; }
  const Shape& shape() const { return checked().shape; }
  const Shape& strides() const { return checked().strides; }
  int rank() const { return checked().shape.rank(); }
  /// Size of one dimension; negative counts from the back.
  int64_t size(int64_t dim) const;
  int64_t stride(int64_t dim) const;
  int64_t numel() const { return checked().shape.numel(); }
  DType dtype() const { return checked().dtype; }
  Device device() const { return checked().storage->device(); }
  int64_t storage_offset() const { return checked().offset; }
  bool is_contiguous() const;
  uint64_t version() const { return checked().storage->version(); }

  /// First element, read only. The typed form throws unless T fits the dtype.
  const void* data() const;
  template <class T>
  const T* data() const {
    require_dtype(dtype_of<T>);
    return static_cast<const T*>(data());
  }
  /// First element, to be written: bumps the version that saved values check.
  void* mutable_data() const;
  template <class T>
  T* mutable_data() const {
    require_dtype(dtype_of<T>);
    return static_cast<T*>(mutable_data());
  }
  /// The value of a tensor with one element, converted to T.
  template <class T>
  T item() const {
    return static_cast<T>(item_as_double());
  }

  TensorImpl& impl() const { return checked(); }
  const std::shared_ptr<TensorImpl>& handle() const { return impl_; }
  /// True where both are the same handle.
  bool is_same(const Tensor& other) const { return impl_ == other.impl_; }

 private:
  TensorImpl& checked() const {
    require(impl_ != nullptr, "tensor: an undefined tensor was used");
    return *impl_;
  }
  void require_dtype(DType wanted) const;
  double item_as_double() const;
  std::shared_ptr<TensorImpl> impl_;
};

using Tensors = std::vector<Tensor>;

class Generator;

/// New tensors. `empty` is not initialised.
OLM_API Tensor empty(const Shape& shape, TensorOptions options = {});
OLM_API Tensor empty_like(const Tensor& x);
OLM_API Tensor zeros(const Shape& shape, TensorOptions options = {});
OLM_API Tensor zeros_like(const Tensor& x);
OLM_API Tensor ones(const Shape& shape, TensorOptions options = {});
OLM_API Tensor ones_like(const Tensor& x);
OLM_API Tensor full(const Shape& shape, double value, TensorOptions options = {});
/// 0, 1, …, n - 1.
OLM_API Tensor arange(int64_t n, TensorOptions options = {.dtype = i64});
/// Independent normal numbers of mean 0 and deviation 1, or uniform ones in [0, 1).
OLM_API Tensor randn(const Shape& shape, Generator& rng, TensorOptions options = {});
OLM_API Tensor uniform(const Shape& shape, Generator& rng, TensorOptions options = {});
/// Integers in [low, high).
OLM_API Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& rng,
                       TensorOptions options = {.dtype = i64});
/// A copy of values in host memory.
template <class T>
Tensor from_host(std::span<const T> values, const Shape& shape, Device device = cpu);
template <class T>
Tensor from_host(const std::vector<T>& values, const Shape& shape, Device device = cpu) {
  return from_host(std::span<const T>(values), shape, device);
}
template <class T>
Tensor from_host(std::initializer_list<T> values, const Shape& shape, Device device = cpu) {
  return from_host(std::span<const T>(values.begin(), values.size()), shape, device);
}
/// All elements in row-major order, converted to T.
template <class T>
std::vector<T> to_host(const Tensor& x);

/// Prints values of small tensors, corners of large ones, and always shape, dtype, device.
OLM_API std::ostream& operator<<(std::ostream&, const Tensor&);

/// The stream kernels on x's device run on, with its scratch memory.
OLM_API kernels::Stream stream_of(const Tensor& x);
/// Options of a tensor like x; and those of an accumulator beside it.
inline TensorOptions options_of(const Tensor& x) { return {x.dtype(), x.device()}; }
inline TensorOptions acc_options(const Tensor& x) { return {acc_dtype(x.dtype()), x.device()}; }
/// Product of all sizes but the last; 1 for rank 0.
OLM_API int64_t leading_size(const Tensor& x);

/// Checks used by ops; each throws naming `op`.
OLM_API void require_same_device(const char* op, const Tensor& a, const Tensor& b);
OLM_API void require_same_dtype(const char* op, const Tensor& a, const Tensor& b);
OLM_API void require_float(const char* op, const Tensor& x);
OLM_API void require_index_dtype(const char* op, const Tensor& ids);
/// A parameter comes in acc_dtype(x) or in x's own dtype.
OLM_API void require_parameter_dtype(const char* op, const Tensor& parameter, const Tensor& x);

}  // namespace olm
