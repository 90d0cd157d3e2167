#pragma once
#include <cstddef>

namespace olm::cuda_emulator {

/// Judges a plain load or store of the running kernel: it may touch device memory, shared memory,
/// its thread's own local memory and pinned memory, and read its arguments and constants.
void watch(const void* memory, size_t bytes, bool writes);
/// The same for an access whose type has the alignment of its size, a power of two.
void watch_aligned(const void* memory, size_t bytes, bool writes);

}  // namespace olm::cuda_emulator
