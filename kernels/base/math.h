#pragma once
// Integer arithmetic on sizes.
#include <cstdint>
#include <type_traits>

namespace olm::kernels {

/// n / size, rounded up; n >= 0, size > 0.
template <class T>
constexpr T ceil_div(T n, std::type_identity_t<T> size) {
  return (n + size - 1) / size;
}
/// The least multiple of `size` that is at least n; n >= 0, size > 0.
template <class T>
constexpr T round_up(T n, std::type_identity_t<T> size) {
  return ceil_div(n, size) * size;
}

/// The distance between rows of a matrix whose contract says that a stride of 0 means tight.
constexpr int64_t row_stride(int64_t stride, int64_t cols) { return stride ? stride : cols; }

}  // namespace olm::kernels
