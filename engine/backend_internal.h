#pragma once
// What a device that has its own memory gives to the engine. The CPU needs none of it.
#include <cstddef>

#include <olm/engine/allocator.h>
#include <olm/engine/backend.h>

namespace olm {

/// Copies bytes between two devices of which one at least is not the CPU. To the CPU it waits, as
/// synchronize() does; elsewhere it is queued, and `from` may be freed or changed at once.
void copy_between_devices(void* to, Device to_device, const void* from, Device from_device,
                          size_t bytes);

namespace cuda_backend {  // engine/cuda/, where the build has it

/// Throws one sentence that says what is missing, unless card `index` can be used.
void require_card(int index);
Allocator& allocator(int index);
kernels::Stream stream(int index);
void synchronize(int index);
void copy(void* to, Device to_device, const void* from, Device from_device, size_t bytes);

}  // namespace cuda_backend
}  // namespace olm
