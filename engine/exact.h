#pragma once
// Numbers that become elements of a tensor.
#include <cmath>

#include <olm/engine/tensor.h>

namespace olm {

/// Throws unless `value` is an element of `dtype` as it stands: a whole number in range for
/// integers, 0 or 1 for bool. Float dtypes take any number, rounded.
inline void require_exact(const char* op, double value, DType dtype) {
  if (is_float(dtype)) return;
  const double bound = dtype == i32 ? 0x1p31 : 0x1p63;
  const bool fits = dtype == boolean
                        ? value == 0 || value == 1
                        : value >= -bound && value < bound && value == std::trunc(value);
  require(fits, op, ": ", value, " is not a number that ", dtype, " holds");
}

}  // namespace olm
