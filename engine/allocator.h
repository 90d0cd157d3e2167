#pragma once
// Memory of a device, kept and reused: freed blocks stay with the allocator until `empty_cache`.
#include <cstddef>

#include <olm/engine/device.h>
#include <olm/kernels/base/types.h>

namespace olm {

/// What an allocator holds, in bytes.
struct MemoryStats {
  size_t in_use = 0;              ///< handed out now
  size_t peak = 0;                ///< largest in_use since the start or reset_peak_memory
  size_t reserved = 0;            ///< taken from the system, in use or cached
  size_t allocations = 0;         ///< requests served so far
  size_t system_allocations = 0;  ///< requests that went to the system
};

class OLM_API Allocator : public kernels::ScratchSource {
 public:
  virtual ~Allocator() = default;
  virtual MemoryStats stats() const = 0;
  virtual void reset_peak() = 0;
  virtual void empty_cache() = 0;
};

/// The allocator of a device; throws where the build or the machine has no such device.
OLM_API Allocator& allocator_of(Device device);

OLM_API MemoryStats memory_stats(Device device = cpu);
OLM_API void reset_peak_memory(Device device = cpu);
/// Returns cached memory that nobody uses to the system.
OLM_API void empty_cache(Device device = cpu);

}  // namespace olm
