#pragma once
// Integer arithmetic on sizes.
#include <cstdint>

namespace olm::kernels {

/// n / size, rounded up; n >= 0, size > 0.
constexpr int64_t ceil_div(int64_t n, int64_t size) { return (n + size - 1) / size; }
/// The least multiple of `size` that is at least n; n >= 0, size > 0.
constexpr int64_t round_up(int64_t n, int64_t size) { return ceil_div(n, size) * size; }

}  // namespace olm::kernels
