#pragma once
// A kit for whoever writes an op. An op has one order: checks; forward, a call of `run`; and the
// backward in the lambda that it hands to record(). See ops/norm.cpp.
#include <utility>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>

namespace olm {

// ---- memory as kernels take it ------------------------------------------------------------------
/// Where t's elements begin, in the memory of its device: for kernels there, not for the host.
template <class T>
const T* device_data(const Tensor& t) {
  require(t.dtype() == dtype_of<T>, "op: data of dtype ", t.dtype(), " was taken for ",
          dtype_of<T>);
  return static_cast<const T*>(t.data());
}
/// The same, to be written.
template <class T>
T* mutable_device_data(const Tensor& t) {
  device_data<T>(t);
  return static_cast<T*>(t.mutable_data());
}

// ---- optional tensors --------------------------------------------------------------------------
/// What t holds, to be read; null if t is undefined.
template <class T = void>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.data()) : nullptr;
}
/// The same, to be written.
inline void* memory_or_null(const Tensor& t) { return t.defined() ? t.mutable_data() : nullptr; }

inline Tensor contiguous_if_defined(const Tensor& t) {
  return t.defined() ? raw::contiguous(t) : t;
}

// ---- checks ------------------------------------------------------------------------------------
/// Throws where x is no float tensor with a last axis.
inline void require_rows(const char* op, const Tensor& x) {
  require_float(op, x);
  require(x.rank() >= 1, op, ": wanted x with at least one dimension, got a scalar");
}

/// Throws where a parameter of an op on x is not of the shape that is wanted, on x's device, in x's
/// dtype or its acc_dtype.
inline void check_parameter(const char* op, const char* name, const Tensor& p, const Shape& shape,
                            const Tensor& x) {
  require(p.defined(), op, ": wanted ", name, " ", shape, ", got an undefined tensor");
  require(p.shape() == shape, op, ": wanted ", name, " ", shape, " for an input ", x.shape(),
          ", got ", p.shape());
  require_same_device(op, x, p);
  require_parameter_dtype(op, p, x);
}

/// The same check, and the parameter as kernels want it: contiguous, in acc_dtype(x).
inline Tensor checked_parameter(const char* op, const char* name, const Tensor& p,
                                const Shape& shape, const Tensor& x) {
  check_parameter(op, name, p, shape, x);
  return raw::contiguous(raw::cast(p, acc_dtype(x.dtype())));
}
/// The same; an undefined parameter is left out.
inline Tensor checked_if_defined(const char* op, const char* name, const Tensor& p,
                                 const Shape& shape, const Tensor& x) {
  return p.defined() ? checked_parameter(op, name, p, shape, x) : Tensor();
}

/// Throws where x · weightᵀ + bias cannot be: x [..., in], weight [out, in], bias [out] or
/// undefined.
inline void check_linear(const char* op, const Tensor& x, const Tensor& weight,
                         const Tensor& bias) {
  require_rows(op, x);
  require(weight.defined() && weight.rank() == 2 && weight.size(1) == x.size(-1), op,
          ": wanted weight [out,", x.size(-1), "] for an input ", x.shape(), ", got ",
          weight.defined() ? weight.shape() : Shape{});
  require_same_device(op, x, weight);
  require_parameter_dtype(op, weight, x);
  if (bias.defined()) check_parameter(op, "bias", bias, {weight.size(0)}, x);
}

// ---- gradients ---------------------------------------------------------------------------------
/// Memory for the gradient of an input, in the input's dtype; undefined where none is needed.
inline Tensor empty_if_needed(const Sink& into) {
  return into.needed ? empty(into.shape, {into.dtype, into.device}) : Tensor();
}

/// Where a kernel puts the gradient of a parameter: into the gradient so far, which it adds to, if
/// that has the dtype in which the kernel writes; else into new memory. Nowhere, if none is needed.
class ParamGrad {
 public:
  /// `dtype` is what the kernel writes, acc_dtype as a rule. `own`, memory of the op that the
  /// gradient may be written to and handed out in, is taken where backward will not run again.
  ParamGrad(const Sink& into, DType dtype, const Tensor& own = {}) : dtype_(into.dtype) {
    if (!into.needed) return;
    const auto fits = [&](const Tensor& t) {
      return t.defined() && t.dtype() == dtype && t.shape() == into.shape;
    };
    if (fits(into.pending))
      gradient_ = into.pending;
    else if (into.last_run && fits(own))
      gradient_ = own;
    else
      gradient_ = empty(into.shape, {dtype, into.device});
    accumulates_ = into.accumulates(gradient_);
  }

  /// The kernel must add to what is there.
  bool accumulates() const { return accumulates_; }
  /// Null where no gradient is needed.
  void* data() const { return memory_or_null(gradient_); }
  /// The memory itself; undefined where no gradient is needed.
  const Tensor& tensor() const { return gradient_; }
  /// What backward returns once the kernel ran: the gradient in the parameter's dtype.
  Tensor result() const { return gradient_.defined() ? raw::cast(gradient_, dtype_) : gradient_; }

 private:
  DType dtype_;
  Tensor gradient_;
  bool accumulates_ = false;
};

}  // namespace olm
