#pragma once
// An index out of range, found where nothing can be thrown: in a kernel on another device.
#include <cstdint>

#include <olm/kernels/base/error.h>

namespace olm::kernels {

/// Throws the sentence about an index outside [0, size).
[[noreturn]] inline void fail_index(const char* op, int64_t value, int64_t position, int64_t size) {
  fail(op, ": index ", value, " at position ", position, " is outside [0, ", size, ")");
}

/// What a kernel reports of the first bad index that it meets; it then leaves that row out. The
/// memory is the host's, mapped into the device, and is looked at when the host waits for it.
struct DeviceFault {
  int32_t claimed = 0;       ///< set by the one thread that writes the rest
  const char* op = nullptr;  ///< host memory, for the sentence
  int64_t value = 0, position = 0, size = 0;
};

}  // namespace olm::kernels
