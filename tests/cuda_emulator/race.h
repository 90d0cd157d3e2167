#pragma once
// The race detector: which accesses of a kernel no barrier orders. Compiled in with
// OLM_EMULATOR_RACE, and fed by the instrumentation that -fsanitize=thread puts into kernels; the
// runtime of that sanitizer is not linked.
#include <cstddef>
#include <cstdint>

namespace olm::cuda_emulator {
struct Grid;
}

namespace olm::cuda_emulator::race {

#if OLM_EMULATOR_RACE
inline constexpr bool kDetects = true;
void begin_grid(const Grid& grid);
void begin_block();
/// All threads of the block have met.
void full_barrier();
/// These threads have met: those with `waits` come after all of them.
void join(const uint16_t* members, const bool* waits, int count);
/// Accesses of the running thread.
void note_read(const void* memory, size_t bytes);
void note_write(const void* memory, size_t bytes);
void note_update(const void* memory, size_t bytes);
#else
inline constexpr bool kDetects = false;
inline void begin_grid(const Grid&) {}
inline void begin_block() {}
inline void full_barrier() {}
inline void join(const uint16_t*, const bool*, int) {}
inline void note_read(const void*, size_t) {}
inline void note_write(const void*, size_t) {}
inline void note_update(const void*, size_t) {}
#endif

}  // namespace olm::cuda_emulator::race
