#include <olm/autograd/ops/cast.h>

#include <olm/engine/raw.h>

namespace olm {

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = raw::cast(x, dtype);
  if (!is_float(dtype) || !is_float(x.dtype())) return y;
  return record("cast", y, {x},
                [from = x.dtype()](const Tensor& dy, Sinks) { return Grads{raw::cast(dy, from)}; });
}

Tensor contiguous(const Tensor& x) {
  if (x.is_contiguous()) return x;
  return record("contiguous", raw::clone(x), {x},
                [](const Tensor& dy, Sinks) { return Grads{dy}; });
}

}  // namespace olm
