#pragma once
// What the norm ops do alike with their parameters.
#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>

namespace olm::norm {

/// Checks that x has a last axis and float elements.
inline void require_rows(const char* op, const Tensor& x) {
  require_float(op, x);
  require(x.rank() >= 1, op, ": wanted x with at least one dimension, got a scalar");
}

/// The parameter as kernels want it, contiguous in acc_dtype(x); undefined if it is. Throws where
/// it does not fit x.
inline Tensor parameter(const char* op, const char* name, const Tensor& p, const Tensor& x) {
  if (!p.defined()) return {};
  require(p.shape() == Shape{x.size(-1)}, op, ": ", name, " ", p.shape(), " does not fit x ",
          x.shape());
  require_same_device(op, x, p);
  require_parameter_dtype(op, p, x);
  return raw::contiguous(raw::cast(p, acc_dtype(x.dtype())));
}

inline const void* data_or_null(const Tensor& t) { return t.defined() ? t.data() : nullptr; }
inline void* memory_or_null(const Tensor& t) { return t.defined() ? t.mutable_data() : nullptr; }

/// Where a parameter's gradient goes: [D] in the accumulator's dtype, or undefined.
inline Tensor gradient_buffer(const Sink& sink, int64_t cols, TensorOptions options) {
  if (!sink.needed) return {};
  if (sink.pending.defined() && sink.pending.dtype() == options.dtype) return sink.pending;
  return empty({cols}, options);
}
/// The gradient in the parameter's own dtype.
inline Tensor finished(const Tensor& gradient, DType dtype) {
  return gradient.defined() ? raw::cast(gradient, dtype) : Tensor();
}

}  // namespace olm::norm
