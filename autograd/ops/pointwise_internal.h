#pragma once
// From tensors to the operands of pointwise kernels.
#include <olm/engine/raw.h>
#include <olm/kernels/pointwise.h>

namespace olm {

/// x as an operand over `shape`, to which it broadcasts.
inline kernels::Strided operand(const Tensor& x, const Shape& shape) {
  const Tensor wide = raw::expand(x, shape);
  kernels::Strided s{.data = x.data()};
  for (int i = 0; i < shape.rank(); ++i) s.strides[i] = wide.strides()[i];
  return s;
}

/// Fills rank, shape and stream of a kernel that works over `shape` where `x` lives.
template <class Kernel>
Kernel over(const Shape& shape, const Tensor& x, Kernel k) {
  k.rank = shape.rank();
  for (int i = 0; i < shape.rank(); ++i) k.shape[i] = shape[i];
  k.stream = stream_of(x);
  return k;
}

}  // namespace olm
