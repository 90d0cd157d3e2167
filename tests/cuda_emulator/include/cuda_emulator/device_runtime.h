#pragma once
// What the device functions of the shadow headers ask of the emulator. Called by the emulated
// threads of a kernel only.
#include <cstddef>
#include <cstdint>

#include <cuda_emulator/vector_types.h>

/// Where the running thread is; the emulator sets them.
#define OLM_EMULATOR_VARIABLE extern __attribute__((visibility("hidden")))
OLM_EMULATOR_VARIABLE uint3 threadIdx, blockIdx;
OLM_EMULATOR_VARIABLE dim3 blockDim, gridDim;

namespace olm::cuda_emulator {

/// The running thread among those of its block, x fastest.
OLM_EMULATOR_VARIABLE unsigned thread_number;
inline unsigned lane() { return thread_number % 32; }

/// Barriers of the block. `threads` 0 stands for all threads of the block; of others only those
/// who call with `waits` wait.
void barrier(int id, int threads, bool waits);
/// __syncthreads that counts the threads for which the predicate holds.
int barrier_count(bool predicate);

/// Collectives of the lanes in `mask`, of the calling thread's warp.
uint64_t shuffle(unsigned mask, uint64_t value, unsigned source_lane);
unsigned ballot(unsigned mask, bool predicate);
unsigned match_any(unsigned mask, uint64_t value);
void sync_warp(unsigned mask);

/// Dynamic shared memory of the block, aligned to 1024.
unsigned char* shared_memory();

/// Copies of 16 bytes from global to shared memory, in groups, each thread's own.
void copy_async(void* shared, const void* global, bool valid);
void commit_copies();
void wait_for_copies(int kept);

void load_matrices(uint32_t (&r)[4], const void* row, bool transpose);
enum class Element : uint8_t { bf16, f16, tf32 };
/// D += A · B: m16n8k16 of 16-bit elements, m16n8k8 of tf32.
void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Element);

/// Tells the race detector of an atomic update.
void note_atomic(void* memory, size_t bytes);
/// Reports a vector access of `bytes` whose address is not a multiple of that.
void check_alignment(const void* memory, size_t bytes);
/// Ends the kernel with a report, as __trap() does.
[[noreturn]] void trap();

}  // namespace olm::cuda_emulator
