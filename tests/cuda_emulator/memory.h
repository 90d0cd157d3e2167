#pragma once
// Device memory, which the host cannot touch while no kernel and no copy runs, and pinned memory.
#include <cstddef>
#include <cstdint>
#include <string>

namespace olm::cuda_emulator {

inline constexpr int kMaxDeviceCount = 8;
/// Addresses that are set aside for each device.
inline constexpr size_t kArenaBytes = size_t(32) << 30;

/// Null where the device's memory does not suffice. New memory is full of 0xff, which reads as NaN.
void* allocate_device(int device, size_t bytes);
/// False for what allocate_device did not give.
bool free_device(void* memory);
size_t device_bytes_in_use(int device);

/// The device whose addresses these are; -1: none.
int device_of(const void* memory);
/// Where the addresses of a device begin.
char* arena_of(int device);
/// True for bytes within one allocation.
bool is_allocated(const void* memory, size_t bytes);
/// The allocation that holds an address; it is valid while the version stays.
struct AllocatedBytes {
  const char* data;
  size_t bytes;
};
AllocatedBytes allocation_of(const void* memory);
extern int64_t allocation_version;  ///< counts allocations and releases

void* allocate_pinned(size_t bytes);
bool free_pinned(void* memory);
bool is_pinned(const void* memory, size_t bytes);

/// "byte 12 of the 4096 bytes of device memory at 0x…", or what else is there.
std::string describe_memory(const void* memory);

/// Opens a device's memory to this process as long as it lives; nests.
class OpenDevice {
 public:
  explicit OpenDevice(int device);
  ~OpenDevice();
  OpenDevice(const OpenDevice&) = delete;
  OpenDevice& operator=(const OpenDevice&) = delete;

 private:
  int device_;
};

}  // namespace olm::cuda_emulator
