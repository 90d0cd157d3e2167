#include <tests/cuda_emulator/shadow.h>

#if OLM_EMULATOR_RACE
#include <sys/mman.h>

#include <new>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>

namespace olm::cuda_emulator::shadow {
namespace {

struct Planes {
  Cell *even = nullptr, *odd = nullptr;
};
std::array<Planes, kMaxDeviceCount> of_devices;
int opened = 0;

/// Cells for `bytes` of memory; pages come into being when they are touched.
Cell* make_cells(size_t bytes) {
  void* memory = mmap(nullptr, bytes / 2 * sizeof(Cell), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<Cell*>(memory);
}

}  // namespace

Cells of_shared(size_t offset) {
  static const Planes planes{make_cells(kMaxShared), make_cells(kMaxShared)};
  return {planes.even, planes.odd, offset};
}

Cells of_device(const void* memory) {
  const Planes& planes = of_devices[size_t(opened)];
  return {planes.even, planes.odd, size_t(static_cast<const char*>(memory) - arena_of(opened))};
}

void open(int device) {
  opened = device;
  Planes& planes = of_devices[size_t(device)];
  if (!planes.even) planes = {make_cells(kArenaBytes), make_cells(kArenaBytes)};
}

}  // namespace olm::cuda_emulator::shadow
#endif
