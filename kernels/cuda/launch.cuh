#pragma once
// How kernels are launched, and what they share: dynamic shared memory, grid-stride loops, reports
// of a bad index, dispatch on dtypes.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include <olm/kernels/base/fault.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/cuda/check.cuh>
#include <olm/kernels/cuda/ptx.cuh>

namespace olm::kernels {

/// The first bytes of dynamic shared memory belong to reduce.cuh.
inline constexpr size_t kReduceBytes = 512;
/// Dynamic shared memory that a kernel may ask for, so that every card from sm_80 on runs it.
inline constexpr size_t kMaxShared = 99 * 1024 - kReduceBytes;

/// The shape of a launch: blocks of the grid, threads of a block, bytes of shared<T>() memory.
struct Launch {
  int64_t grid = 0, grid_y = 1, grid_z = 1;
  int64_t block = 256;
  size_t shared = 0;
  Stream stream = {};
};

/// True where OLM_SYNC=1 in the environment asks to wait after each launch, to blame the right
/// kernel.
bool waits_after_launch();
/// The checks and the configuration of a launch; throws where CUDA has no such shape.
cudaLaunchConfig_t configure(const Launch& shape);

/// Launches kernel(args…); an empty grid launches nothing.
template <class... P, class... A>
void launch(void (*kernel)(P...), const Launch& shape, A&&... args) {
  if (shape.grid == 0 || shape.grid_y == 0 || shape.grid_z == 0) return;
  const cudaLaunchConfig_t config = configure(shape);
  if (config.dynamicSmemBytes > 48 * 1024)
    OLM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        int(config.dynamicSmemBytes)));
  OLM_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(args))...));
  if (waits_after_launch()) OLM_CUDA_CHECK(cudaStreamSynchronize(config.stream));
}

/// Blocks of `per_block` elements that cover n, but no more than max_blocks: threads then go on
/// over the grid.
inline int64_t blocks_for(int64_t n, int64_t per_block, int64_t max_blocks = 4096) {
  return std::min(ceil_div(n, per_block), max_blocks);
}
/// Threads of a block of kernels whose threads go on over the grid, and such a launch over n items.
inline constexpr int64_t kGridBlock = 256;
inline Launch grid_over(int64_t n, const Stream& stream, int64_t max_blocks = 4096) {
  return {.grid = blocks_for(n, kGridBlock, max_blocks), .block = kGridBlock, .stream = stream};
}

/// The block's dynamic shared memory.
template <class T>
__device__ inline T* shared() {
  return reinterpret_cast<T*>(shared_memory() + kReduceBytes);
}

/// This thread among all of a one-dimensional grid, and how many there are.
__device__ inline int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t global_threads() { return int64_t(gridDim.x) * blockDim.x; }

/// Where the kernels of an operation report a bad index. Made on the host alone and passed as a
/// kernel argument, since the host reads `op`: a string named in device code lies in the card's
/// memory.
class Faults {
 public:
  Faults() = default;
  Faults(const char* op, const Stream& stream) : op_(op), to_(stream.fault) {}
  /// Tells the host of a bad index; the first one is kept. The caller leaves the row out.
  __device__ void report(int64_t value, int64_t position, int64_t size) const {
    if (atomicCAS(&to_->claimed, 0, 1) != 0) return;
    to_->op = op_;
    to_->value = value;
    to_->position = position;
    to_->size = size;
  }
  /// True for an index in [0, size); else it is reported.
  __device__ bool check(int64_t value, int64_t position, int64_t size) const {
    if (uint64_t(value) < uint64_t(size)) return true;
    report(value, position, size);
    return false;
  }

 private:
  const char* op_ = nullptr;
  DeviceFault* to_ = nullptr;
};

/// As visit_float, of the dtypes that CUDA kernels have: f64 throws.
template <class F>
decltype(auto) visit_cuda_float(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<bfloat16_t>();
    case DType::f16:
      return f.template operator()<float16_t>();
    default:
      fail("cuda: kernels want f32, bf16 or f16, got ", t);
  }
}

/// As visit_any, without f64.
template <class F>
decltype(auto) visit_cuda_any(DType t, F&& f) {
  switch (t) {
    case DType::i32:
      return f.template operator()<int32_t>();
    case DType::i64:
      return f.template operator()<int64_t>();
    case DType::boolean:
      return f.template operator()<bool>();
    default:
      return visit_cuda_float(t, f);
  }
}

/// Calls f.template operator()<Word>() with an unsigned integer of that many bytes.
template <class F>
void visit_word(size_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f.template operator()<uint8_t>();
    case 2:
      return f.template operator()<uint16_t>();
    case 4:
      return f.template operator()<uint32_t>();
    default:
      return f.template operator()<uint64_t>();
  }
}

}  // namespace olm::kernels
