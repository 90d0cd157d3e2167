#pragma once
// How a grid runs: one block after another on the calling OS thread, each thread of a block on a
// fibre from the moment that it first waits.
#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>
#include <tests/cuda_emulator/fiber.h>
#include <tests/cuda_emulator/memory.h>

namespace olm::cuda_emulator {

inline constexpr int kMaxThreads = 1024, kWarp = 32;
/// Shared memory of a block on sm_80, and what sm_86 and sm_89 have too, which kernels keep to.
inline constexpr size_t kMaxShared = 163 << 10, kPortableShared = 99 << 10;
/// Addresses of shared memory, of which no block has all.
inline constexpr size_t kSharedArena = 256 << 10;

/// One launch.
struct Grid {
  const void* kernel = nullptr;
  const KernelCall* call = nullptr;
  dim3 blocks, threads;
  size_t shared = 0;
  int device = 0;
};

/// What runs. Only the OS thread that runs it may look.
struct Running {
  const Grid* grid = nullptr;
  bool inside = false;     ///< a thread of the kernel runs, not the emulator between blocks
  int threads = 0;         ///< of a block
  int live = 0;            ///< of those, the ones that have not exited
  Fiber* fiber = nullptr;  ///< the one that runs
  const unsigned char* arena = nullptr;  ///< where addresses of the device begin
  bool at_random = false;                ///< the order of threads
  bool copies = false;                   ///< a thread of the block has used cp.async
  int barriers = 0;                      ///< at which somebody has arrived

  bool is_shared(const void* p) const {
    return size_t(static_cast<const unsigned char*>(p) - shared) < grid->shared;
  }
  bool is_device(const void* p, size_t bytes) const {
    return size_t(static_cast<const unsigned char*>(p) - arena) <= kArenaBytes - bytes;
  }
  unsigned char* const shared;  ///< where dynamic shared memory begins
  Running();
};
extern Running running;
/// True on the OS thread that runs a grid.
extern constinit thread_local bool runs_kernel __attribute__((tls_model("initial-exec")));

/// Runs all blocks, unless one of them shows a defect.
void run_grid(const Grid& grid);

/// Suspends the running thread until make_ready; `place` is what a report of a deadlock says, with
/// the mask or the barrier it waits in.
void wait_here(const char* place, unsigned detail);
void make_ready(int thread);
bool has_exited(int thread);
/// Ends the block, and the grid with it, where going on would make no sense.
[[noreturn]] void abandon_block();
/// While it lives, what runs is the emulator's, and is not watched.
class Pause {
 public:
  Pause() : was_(runs_kernel) { runs_kernel = false; }
  ~Pause() { runs_kernel = was_; }
  Pause(const Pause&) = delete;
  Pause& operator=(const Pause&) = delete;

 private:
  bool was_;
};

// What a block has beyond its threads; each part is reset when a block ends early.
void reset_barriers();
void reset_collectives();
void reset_copies();
/// To be called when a thread has exited, where barriers or copies are in use.
void barriers_after_exit();
void copies_after_exit();

}  // namespace olm::cuda_emulator
