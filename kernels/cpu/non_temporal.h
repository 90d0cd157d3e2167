#pragma once
// When results are written by non-temporal stores.
#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Results of so many bytes are written by non-temporal stores, which go around the caches.
/// Measured over chains of ops that each read what the one before wrote, with 1 MiB of L2 and 32
/// MiB of L3: they are 10 % slower at 2 MiB, as fast at 6, a quarter faster from 16 on, where
/// memory is spared the reading of lines that are to be overwritten.
inline constexpr int64_t kMinNonTemporalBytes = int64_t(6) << 20;

/// Whether a result of n elements is written by non-temporal stores.
constexpr bool uses_non_temporal_stores(DType dtype, int64_t n) {
  return n * int64_t(size_of(dtype)) >= kMinNonTemporalBytes;
}

}  // namespace olm::kernels
