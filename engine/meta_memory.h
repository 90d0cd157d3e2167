#pragma once
// What tensors on `meta` would take: memory_stats(meta) tells it, so that a computation there tells
// the memory of the same one elsewhere.
#include <cstddef>

namespace olm {

/// Adds to, or with a negative number takes from, the memory in use on `meta`.
void count_on_meta(ptrdiff_t bytes) noexcept;

}  // namespace olm
