#pragma once
// Indices that come with a call are checked before anything is read or written by them.
#include <olm/kernels/base/fault.h>
#include <olm/kernels/base/visit.h>

namespace olm::kernels {

/// Throws for the first index outside [0, size).
inline void check_indices(const char* name, DType dtype, const void* index, int64_t n,
                          int64_t size) {
  visit_index(dtype, [&]<class Id>() {
    const Id* ids = in<Id>(index);
    bool good = true;
    for (int64_t i = 0; i < n; ++i) good &= uint64_t(int64_t(ids[i])) < uint64_t(size);
    if (good) return;
    for (int64_t i = 0; i < n; ++i)
      if (uint64_t(int64_t(ids[i])) >= uint64_t(size)) fail_index(name, ids[i], i, size);
  });
}

}  // namespace olm::kernels
