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

}  // namespace olm::kernels
