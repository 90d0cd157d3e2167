#pragma once
// Kernels of the emulator's tests, right and with one defect each.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include <olm/kernels/base/types.h>

namespace olm::cuda_emulator::test {

enum class Defect {
  none,
  // of norm
  no_barrier,               ///< between writing partial sums and reading them
  no_barrier_before_reuse,  ///< of the memory of partial sums, by the next row
  extra_barrier,            ///< that 7 threads reach
  write_past_shared,
  // of gemm
  weak_wait,                 ///< one group too many stays in flight
  no_barrier_before_refill,  ///< of a buffer that other warps still read
  no_swizzle,                ///< right, but with bank conflicts
};

/// y = x / sqrt(mean(x²) + eps) by rows, in 2 blocks of 128 threads.
cudaError_t norm(float* y, const float* x, int rows, int cols, Defect = Defect::none,
                 cudaStream_t = nullptr);

/// c [m, n] = a [m, k] · b [n, k]ᵀ: cp.async into two buffers, ldmatrix, mma. n and k are multiples
/// of 32.
cudaError_t gemm(float* c, const bfloat16_t* a, const bfloat16_t* b, int m, int n, int k,
                 Defect = Defect::none);

/// y[i] += a · x[i] by grid-stride loops.
cudaError_t axpy(float* y, const float* x, float a, int n, cudaStream_t = nullptr);
/// *counter counts all threads of 8 blocks, by atomics or by plain additions.
cudaError_t count_threads(unsigned* counter, bool atomically);
/// out[i] = in[i rounded down to even] + 1, through shared memory of the warp, twice.
enum class Exchange {
  right,
  unsynchronized,    ///< no __syncwarp between write and read
  not_before_reuse,  ///< none between the read and the next write
};
cudaError_t exchange(int* out, const int* in, Exchange);
/// 128 bytes, each written by a thread of its own, of 2 blocks; with `read` all threads read the
/// last one before the barrier of their block.
cudaError_t write_bytes(uint8_t* out, bool read);

/// What one warp's collectives go wrong with; `right` has two masks in flight at once.
enum class Collectives {
  right,
  half_warp,         ///< names all lanes in its mask
  outside_mask,      ///< is the lane that is read
  own_lane_missing,  ///< from the mask
  different,         ///< collectives meet
};
cudaError_t collectives(int* out, Collectives);

/// Results of every collective of lane l, n of them: out[l · n + i].
inline constexpr int kCollectiveResults = 10;
cudaError_t all_collectives(unsigned* out);

/// Producer warps write, consumer warps read, with named barriers.
cudaError_t handover(int* out, int rounds, bool wait_for_consumer);
/// Threads for which i is odd, counted by every thread of a block.
cudaError_t count_odd(int* out, int threads);
/// out[block] = 0, 1, 2… in the order in which blocks run.
cudaError_t block_order(int* out, int* next, int blocks);
/// A copy that is not waited for.
cudaError_t leave_copy_in_flight(const float* x);
/// x[0], or 16 bytes of x at an address 4 bytes on; or nothing but a report.
cudaError_t read_float(float* out, const float* x);
cudaError_t read_misaligned(float4* out, const float* x);
/// What 2 blocks of 32 threads find in shared memory; each writes there afterwards.
cudaError_t read_shared(float* out);
cudaError_t stop_itself();
cudaError_t overflow_stack(int* out);
/// Asks for shared memory and does nothing.
cudaError_t use_shared(size_t bytes, bool raise_limit);

/// One ldmatrix of a [16, 16] matrix in shared memory, as each lane has it.
cudaError_t ldmatrix(uint32_t* out, const uint16_t* matrix, bool transpose);
/// d [16, 8] += a · b of one warp; a [16, 16] and b [16, 8] of T, or [16, 8] and [8, 8] of f32.
template <class T>
cudaError_t mma(float* d, const T* a, const T* b);

}  // namespace olm::cuda_emulator::test
