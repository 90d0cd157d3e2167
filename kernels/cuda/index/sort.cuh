#pragma once
// A stable radix sort on the device.
#include <cstdint>

#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// Sorts n keys below `bound`, and the numbers that come with them, by least significant digit
/// first; equal keys keep their order. keys[0] and values[0] hold the input, keys[1] and values[1]
/// are as large; returns which of the two holds the result. n < 2^31.
int sort_pairs(uint32_t* (&keys)[2], uint32_t* (&values)[2], int64_t n, uint64_t bound,
               const Stream& stream);

}  // namespace olm::kernels
