#pragma once
// Devices that compute while the host goes on. Which cards a machine has: olm/engine/cuda/report.h.
#include <cstdint>

#include <olm/engine/device.h>

namespace olm {

/// Waits until everything that was asked of `device` is done, and throws what went wrong there: an
/// index out of range that a kernel met, or the device's own error. Returns at once on the CPU.
OLM_API void synchronize(Device device);

/// How many copies from a device to the CPU were made so far: each waits for the device.
OLM_API int64_t copies_to_host();

}  // namespace olm
