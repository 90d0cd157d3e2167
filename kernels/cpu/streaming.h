#pragma once
// When results are written past the caches.
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Results of so many bytes go past the caches. Measured over chains of ops that each read what the
/// one before wrote, with 1 MiB of second-level and 32 MiB of last-level cache: past them it is 10
/// % slower at 2 MiB, as fast at 6, a quarter faster from 16 on, where memory is spared the reading
/// of lines that are to be overwritten.
inline constexpr int64_t kLeastStreamedBytes = int64_t(6) << 20;

/// Whether a result of n elements is written past the caches.
constexpr bool writes_past_caches(DType dtype, int64_t n) {
  return n * int64_t(size_of(dtype)) >= kLeastStreamedBytes;
}

}  // namespace olm::kernels
