#pragma once
// What the race detector remembers of each place of shared and device memory.
#include <array>
#include <cstddef>
#include <cstdint>

namespace olm::cuda_emulator::shadow {

/// Stamp and clock of the thread that came here; stamp 0: nobody did.
struct Access {
  uint32_t stamp = 0;
  uint16_t thread = 0, clock = 0;
  bool operator==(const Access&) const = default;
};

/// The last write, the reads since: of this block the latest two that nothing orders, and the
/// stamp of the first of the launch.
struct Cell {
  Access write;
  std::array<Access, 2> reads;
  uint32_t first_read = 0;
  uint16_t next_slot = 0;
  bool atomic = false;
};
static_assert(sizeof(Cell) == 32);

/// A cell stands for two bytes. Bytes at odd addresses that are accessed alone have cells of their
/// own, so neighbours of a boolean array do not disturb each other.
struct Planes {
  Cell *even = nullptr, *odd = nullptr;
};
/// Of shared memory, and of the device whose kernel runs.
extern Planes of_shared, of_device;
/// Makes of_device that of a device.
void open(int device);

/// f for the cells of an access, as long as it returns true.
template <class F>
void for_each_cell(const Planes& planes, size_t offset, size_t bytes, F&& f) {
  if (bytes == 1) {
    f((offset % 2 ? planes.odd : planes.even)[offset / 2]);
    return;
  }
  const size_t end = (offset + bytes + 1) / 2;
  for (size_t i = offset / 2; i < end && f(planes.even[i]); ++i) {}
}

}  // namespace olm::cuda_emulator::shadow
