#include <tests/cuda_emulator/shadow.h>

#if OLM_EMULATOR_RACE
#include <sys/mman.h>

#include <new>

#include <tests/cuda_emulator/block.h>
#include <tests/cuda_emulator/memory.h>

namespace olm::cuda_emulator::shadow {

Planes of_shared, of_device;

namespace {

std::array<Planes, kMaxDeviceCount> of_devices;

/// Cells for `bytes` of memory; pages come into being when they are touched.
Planes make_planes(size_t bytes) {
  const size_t size = bytes / 2 * sizeof(Cell);
  void* memory = mmap(nullptr, 2 * size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, 2 * size, MADV_HUGEPAGE);
  return {static_cast<Cell*>(memory), static_cast<Cell*>(memory) + bytes / 2};
}

}  // namespace

void open(int device) {
  if (!of_shared.even) of_shared = make_planes(kSharedArena);
  Planes& planes = of_devices[size_t(device)];
  if (!planes.even) planes = make_planes(kArenaBytes);
  of_device = planes;
}

}  // namespace olm::cuda_emulator::shadow
#endif
