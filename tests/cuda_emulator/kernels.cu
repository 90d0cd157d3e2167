#include <tests/cuda_emulator/kernels.h>

#include <olm/kernels/cuda/ptx.cuh>

namespace olm::cuda_emulator::test {
namespace {

using namespace olm::kernels;

template <class T>
__device__ T* shared() {
  return reinterpret_cast<T*>(olm::kernels::shared_memory());
}

template <class... P, class... A>
cudaError_t start(void (*kernel)(P...), dim3 grid, unsigned block, size_t bytes,
                  cudaStream_t stream, A... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(block);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// ---- norm ---------------------------------------------------------------------------------------
constexpr int kNormThreads = 128;

__global__ void norm_kernel(float* y, const float* x, int rows, int cols, Defect defect) {
  auto* partial = shared<float>();
  for (int r = int(blockIdx.x); r < rows; r += int(gridDim.x)) {
    float sum = 0;
    for (int c = int(threadIdx.x); c < cols; c += kNormThreads)
      sum += x[r * cols + c] * x[r * cols + c];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    if (defect != Defect::no_barrier) __syncthreads();
    float total = 0;
    for (int w = 0; w < kNormThreads / 32; ++w) total += partial[w];
    const float scale = rsqrtf(total / float(cols) + 1e-5f);
    for (int c = int(threadIdx.x); c < cols; c += kNormThreads)
      y[r * cols + c] = x[r * cols + c] * scale;
    if (defect != Defect::no_barrier_before_reuse) __syncthreads();
    if (defect == Defect::extra_barrier && threadIdx.x < 7) __syncthreads();
    if (defect == Defect::write_past_shared) partial[kNormThreads / 32 + 64] = 1;
  }
}

// ---- gemm ---------------------------------------------------------------------------------------
constexpr int kTileM = 64, kTileN = 32, kTileK = 32, kGemmThreads = 128, kChunks = kTileK / 8;

/// 16 bytes of row r of a tile in shared memory; the swizzle spreads a column over all banks.
__device__ bfloat16_t* chunk_of(bfloat16_t* tile, int r, int chunk, bool swizzled) {
  return tile + r * kTileK + (swizzled ? chunk ^ (r / 2 % kChunks) : chunk) * 8;
}

__device__ void load_tile(bfloat16_t* tile, const bfloat16_t* from, int first, int rows,
                          int tile_rows, int k, int k0, bool swizzled) {
  for (int i = int(threadIdx.x); i < tile_rows * kChunks; i += kGemmThreads) {
    const int r = i / kChunks, chunk = i % kChunks;
    const bool valid = first + r < rows;
    cp_async16(chunk_of(tile, r, chunk, swizzled),
               from + int64_t(valid ? first + r : 0) * k + k0 + chunk * 8, valid);
  }
}

__global__ void __launch_bounds__(kGemmThreads)
    gemm_kernel(float* c, const bfloat16_t* a, const bfloat16_t* b, int m, int n, int k,
                Defect defect) {
  auto* tiles = shared<bfloat16_t>();
  constexpr int kBuffer = (kTileM + kTileN) * kTileK;
  const bool swizzled = defect != Defect::no_swizzle;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int m0 = int(blockIdx.y) * kTileM, n0 = int(blockIdx.x) * kTileN, steps = k / kTileK;
  const auto load = [&](int step) {
    bfloat16_t* buffer = tiles + step % 2 * kBuffer;
    load_tile(buffer, a, m0, m, kTileM, k, step * kTileK, swizzled);
    load_tile(buffer + kTileM * kTileK, b, n0, n, kTileN, k, step * kTileK, swizzled);
  };
  float acc[kTileN / 8][4] = {};
  load(0);
  cp_async_commit();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) load(step + 1);
    cp_async_commit();
    if (defect == Defect::weak_wait)
      cp_async_wait<2>();
    else
      cp_async_wait<1>();
    __syncthreads();
    bfloat16_t* at = tiles + step % 2 * kBuffer;
    bfloat16_t* bt = at + kTileM * kTileK;
    for (int kk = 0; kk < kTileK / 16; ++kk) {
      uint32_t af[4];
      ldmatrix_x4<false>(af, chunk_of(at, warp * 16 + lane % 16, kk * 2 + lane / 16, swizzled));
      for (int j = 0; j < kTileN / 16; ++j) {
        uint32_t bf[4];
        ldmatrix_x4<false>(
            bf, chunk_of(bt, j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + lane / 8 % 2, swizzled));
        mma_m16n8k16<bfloat16_t>(acc[2 * j], af, {bf[0], bf[1]});
        mma_m16n8k16<bfloat16_t>(acc[2 * j + 1], af, {bf[2], bf[3]});
      }
    }
    if (defect != Defect::no_barrier_before_refill) __syncthreads();
  }
  for (int j = 0; j < kTileN / 8; ++j)
    for (int i = 0; i < 4; ++i) {
      const int row = m0 + warp * 16 + lane / 4 + i / 2 * 8;
      if (row < m) c[int64_t(row) * n + n0 + j * 8 + lane % 4 * 2 + i % 2] = acc[j][i];
    }
}

// ---- small ones ---------------------------------------------------------------------------------
__global__ void axpy_kernel(float* y, const float* x, float a, int n) {
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x))
    y[i] += a * x[i];
}

__global__ void count_threads_kernel(unsigned* counter, bool atomically) {
  if (atomically)
    atomicAdd(counter, 1u);
  else if (threadIdx.x == 0)
    *counter += blockDim.x;
}

__global__ void exchange_kernel(int* out, const int* in, Exchange what) {
  auto* values = shared<int>();
  const unsigned i = threadIdx.x;
  for (int round = 0; round < 2; ++round) {
    values[i] = in[i] + round;
    if (what != Exchange::unsynchronized) __syncwarp();
    out[i] = values[i & ~1u];
    if (what != Exchange::not_before_reuse) __syncwarp();
  }
}

__global__ void write_bytes_kernel(uint8_t* out, bool read) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  uint8_t last = 0;
  if (read) {
    last = out[2 * blockDim.x - 1];
    __syncthreads();
  }
  out[i] = uint8_t(last + 1);
}

__global__ void collectives_kernel(int* out, Collectives what) {
  const int l = int(threadIdx.x) % 32;
  const unsigned half = l < 16 ? 0xffffu : 0xffff0000u;
  int got = -1;
  switch (what) {
    case Collectives::right:
      got = __shfl_sync(half, l, l < 16 ? 3 : 19);
      break;
    case Collectives::half_warp:
      if (l < 16) got = __shfl_xor_sync(~0u, l, 1);
      break;
    case Collectives::outside_mask:
      got = __shfl_sync(half, l, l < 16 ? 20 : 16);
      break;
    case Collectives::own_lane_missing:
      got = __shfl_sync(~half, l, l);
      break;
    case Collectives::different:
      got = l % 2 ? __shfl_xor_sync(~0u, l, 1) : int(__ballot_sync(~0u, 1));
  }
  out[threadIdx.x] = got;
}

__global__ void all_collectives_kernel(unsigned* out) {
  const unsigned l = threadIdx.x;
  unsigned* mine = out + l * kCollectiveResults;
  mine[0] = __shfl_sync(~0u, l, 5);
  mine[1] = __shfl_sync(~0u, l, 2, 8);
  mine[2] = __shfl_xor_sync(~0u, l, 3);
  mine[3] = __shfl_up_sync(~0u, l, 4, 16);
  mine[4] = __shfl_down_sync(~0u, l, 4, 16);
  mine[5] = __ballot_sync(~0u, l % 3 == 0);
  mine[6] = unsigned(__any_sync(~0u, l == 7));
  mine[7] = unsigned(__all_sync(~0u, l != 7));
  mine[8] = __match_any_sync(~0u, l % 4);
  mine[9] = unsigned(__shfl_xor_sync(~0u, double(l) + 0.5, 31) * 2);
}

__global__ void handover_kernel(int* out, int rounds, bool wait_for_consumer) {
  constexpr int kFull = 1, kEmpty = 2, kAll = 64;
  auto* box = shared<int>();
  const int lane = int(threadIdx.x) % 32;
  int sum = 0;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < 32) {
      if (wait_for_consumer) barrier(kEmpty, kAll, true);
      box[lane] = round * 32 + lane;
      barrier(kFull, kAll, false);
    } else {
      if (wait_for_consumer) barrier(kEmpty, kAll, false);
      barrier(kFull, kAll, true);
      sum += box[lane ^ 1];
    }
  }
  if (threadIdx.x >= 32) out[lane] = sum;
}

__global__ void count_odd_kernel(int* out) {
  for (int round = 0; round < 3; ++round)
    out[threadIdx.x] = __syncthreads_count(int(threadIdx.x) % 2);
}

__global__ void block_order_kernel(int* out, int* next) {
  if (threadIdx.x == 0) out[blockIdx.x] = atomicAdd(next, 1);
}

__global__ void leave_copy_in_flight_kernel(const float* x) {
  cp_async16(shared<float>(), x, true);
  cp_async_commit();
}

__global__ void read_float_kernel(float* out, const float* x) { *out = *x; }
__global__ void read_misaligned_kernel(float4* out, const float* x) {
  *out = *reinterpret_cast<const float4*>(x + 1);
}
__global__ void read_shared_kernel(float* out) {
  auto* values = shared<float>();
  out[blockIdx.x * blockDim.x + threadIdx.x] = values[threadIdx.x];
  values[threadIdx.x] = 1;
}
__global__ void trap_kernel() { __trap(); }

__attribute__((noinline)) int recurse(volatile int* depth) {
  volatile char local[4096];
  local[*depth % 4096] = char(*depth);
  *depth = *depth + 1;
  return *depth < 1000000 ? recurse(depth) + local[1] : 0;
}
__global__ void overflow_stack_kernel(int* out) { *out = recurse(out); }
__global__ void empty_kernel() {}

__global__ void ldmatrix_kernel(uint32_t* out, const uint16_t* matrix, bool transpose) {
  auto* copy = shared<uint16_t>();
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) copy[i] = matrix[i];
  __syncwarp();
  // Matrices 0 and 1 are the upper rows, 2 and 3 the lower; the odd ones are the right columns.
  const int part = lane / 8, row = lane % 8;
  const uint16_t* address = copy + (part / 2 * 8 + row) * 16 + part % 2 * 8;
  uint32_t r[4];
  if (transpose)
    ldmatrix_x4<true>(r, address);
  else
    ldmatrix_x4<false>(r, address);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = r[i];
}

template <class T>
__global__ void mma_kernel(float* d, const T* a, const T* b) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4 * 2;
  const auto pair = [](T low, T high) { return uint32_t(low.bits) | uint32_t(high.bits) << 16; };
  const auto row = [&](int r, int c) { return pair(a[r * 16 + c], a[r * 16 + c + 1]); };
  const auto column = [&](int r) { return pair(b[r * 8 + g], b[(r + 1) * 8 + g]); };
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = d[(g + i / 2 * 8) * 8 + t + i % 2];
  mma_m16n8k16<T>(acc, {row(g, t), row(g + 8, t), row(g, t + 8), row(g + 8, t + 8)},
                  {column(t), column(t + 8)});
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t + i % 2] = acc[i];
}
template <>
__global__ void mma_kernel<float>(float* d, const float* a, const float* b) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  const auto bits = [](float x) { return __float_as_uint(x); };
  mma_m16n8k8_tf32(acc,
                   {bits(a[g * 8 + t]), bits(a[(g + 8) * 8 + t]), bits(a[g * 8 + t + 4]),
                    bits(a[(g + 8) * 8 + t + 4])},
                   {bits(b[t * 8 + g]), bits(b[(t + 4) * 8 + g])});
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

}  // namespace

cudaError_t norm(float* y, const float* x, int rows, int cols, Defect defect, cudaStream_t stream) {
  return start(norm_kernel, 2, kNormThreads, kNormThreads / 32 * sizeof(float), stream, y, x, rows,
               cols, defect);
}
cudaError_t gemm(float* c, const bfloat16_t* a, const bfloat16_t* b, int m, int n, int k,
                 Defect defect) {
  const dim3 grid(unsigned(n / kTileN), unsigned((m + kTileM - 1) / kTileM));
  return start(gemm_kernel, grid, kGemmThreads, 2 * (kTileM + kTileN) * kTileK * 2, nullptr, c, a,
               b, m, n, k, defect);
}
cudaError_t axpy(float* y, const float* x, float a, int n, cudaStream_t stream) {
  return start(axpy_kernel, unsigned(n + 255) / 256, 256, 0, stream, y, x, a, n);
}
cudaError_t count_threads(unsigned* counter, bool atomically) {
  return start(count_threads_kernel, 8, 64, 0, nullptr, counter, atomically);
}
cudaError_t exchange(int* out, const int* in, Exchange what) {
  return start(exchange_kernel, 1, 64, 64 * sizeof(int), nullptr, out, in, what);
}
cudaError_t write_bytes(uint8_t* out, bool read) {
  return start(write_bytes_kernel, 2, 64, 0, nullptr, out, read);
}
cudaError_t collectives(int* out, Collectives what) {
  return start(collectives_kernel, 1, 64, 0, nullptr, out, what);
}
cudaError_t all_collectives(unsigned* out) {
  return start(all_collectives_kernel, 1, 32, 0, nullptr, out);
}
cudaError_t handover(int* out, int rounds, bool wait_for_consumer) {
  return start(handover_kernel, 1, 64, 32 * sizeof(int), nullptr, out, rounds, wait_for_consumer);
}
cudaError_t count_odd(int* out, int threads) {
  return start(count_odd_kernel, 1, unsigned(threads), 0, nullptr, out);
}
cudaError_t block_order(int* out, int* next, int blocks) {
  return start(block_order_kernel, unsigned(blocks), 32, 0, nullptr, out, next);
}
cudaError_t leave_copy_in_flight(const float* x) {
  return start(leave_copy_in_flight_kernel, 1, 32, 16, nullptr, x);
}
cudaError_t read_float(float* out, const float* x) {
  return start(read_float_kernel, 1, 1, 0, nullptr, out, x);
}
cudaError_t read_misaligned(float4* out, const float* x) {
  return start(read_misaligned_kernel, 1, 1, 0, nullptr, out, x);
}
cudaError_t read_shared(float* out) {
  return start(read_shared_kernel, 2, 32, 32 * sizeof(float), nullptr, out);
}
cudaError_t stop_itself() { return start(trap_kernel, 3, 32, 0, nullptr); }
cudaError_t overflow_stack(int* out) { return start(overflow_stack_kernel, 1, 1, 0, nullptr, out); }
cudaError_t use_shared(size_t bytes, bool raise_limit) {
  if (raise_limit)
    if (const cudaError_t error = cudaFuncSetAttribute(
            empty_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
        error != cudaSuccess)
      return error;
  return start(empty_kernel, 1, 32, bytes, nullptr);
}
cudaError_t ldmatrix(uint32_t* out, const uint16_t* matrix, bool transpose) {
  return start(ldmatrix_kernel, 1, 32, 512, nullptr, out, matrix, transpose);
}
template <class T>
cudaError_t mma(float* d, const T* a, const T* b) {
  return start(mma_kernel<T>, 1, 32, 0, nullptr, d, a, b);
}
template cudaError_t mma(float*, const bfloat16_t*, const bfloat16_t*);
template cudaError_t mma(float*, const float16_t*, const float16_t*);
template cudaError_t mma(float*, const float*, const float*);

}  // namespace olm::cuda_emulator::test
