#pragma once
// A tile of a GEMM by multiply-adds of f32, for operands of any float dtype and any strides: where
// tensor cores would round f32, and where rows do not begin at multiples of 16 bytes.
#include <olm/kernels/cuda/gemm/epilogue.cuh>
#include <olm/kernels/cuda/launch.cuh>

namespace olm::kernels::cuda_gemm {

/// A block of kSimtThreads threads makes kSimtTile x kSimtTile of C, each thread 4 x 4 of it;
/// operands pass through shared memory, kSimtDepth of the depth at a time.
inline constexpr int kSimtTile = 64, kSimtDepth = 16, kSimtThreads = 256;
/// Rows of a stage, padded so that they are read as vectors without bank conflicts.
inline constexpr int kSimtPitch = kSimtTile + 4;
inline constexpr int kSimtStage = kSimtDepth * kSimtPitch;
inline constexpr size_t kSimtShared = 4 * kSimtStage * sizeof(float);

/// An operand: element (i, k) of its side i of C and the depth k lies at i · along_side + k ·
/// along_depth; one of the two is 1.
struct Strided2D {
  const void* data = nullptr;
  DType dtype = f32;
  int64_t along_side = 0, along_depth = 1;
  bool vectors = false;  ///< quads_fit it
};

/// A matrix of rows of `ld` elements, which run along the depth or along the side of C.
__host__ __device__ inline Strided2D strided(const void* data, DType t, int64_t ld,
                                             bool rows_along_depth) {
  return {.data = data,
          .dtype = t,
          .along_side = rows_along_depth ? ld : 1,
          .along_depth = rows_along_depth ? 1 : ld,
          .vectors = quads_fit(data, t, ld)};
}

/// Four elements of the operand for each thread: kSimtTile x kSimtDepth for the block, from (i0,
/// k0) on, zeros from (side, depth) on.
__device__ inline void fetch(const Strided2D& x, int64_t i0, int64_t k0, int64_t side,
                             int64_t depth, float (&v)[4]) {
  const int t = int(threadIdx.x);
  const bool in_depth = x.along_depth == 1;
  const int64_t i = i0 + (in_depth ? t / 4 : t % 16 * 4);
  const int64_t k = k0 + (in_depth ? t % 4 * 4 : t / 16);
  const int64_t left = in_depth ? (i < side ? depth - k : 0) : (k < depth ? side - i : 0);
  const int count = int(left < 0 ? 0 : left < 4 ? left : 4);
  load_quad(x.data, x.dtype, i * x.along_side + k * x.along_depth, x.vectors, count, v);
}

/// Puts what `fetch` gave into a stage, [kSimtDepth][kSimtPitch].
__device__ inline void place(const Strided2D& x, const float (&v)[4], float* stage) {
  const int t = int(threadIdx.x);
  if (x.along_depth == 1) {
#pragma unroll
    for (int j = 0; j < 4; ++j) stage[(t % 4 * 4 + j) * kSimtPitch + t / 4] = v[j];
  } else {
    store_vec(stage + t / 16 * kSimtPitch + t % 16 * 4, Vec<float, 4>{v[0], v[1], v[2], v[3]});
  }
}

/// sums = op(A) · op(B) for rows m0 + 4 · (thread / 16) + [0, 4) and columns n0 + 4 · (thread % 16)
/// + [0, 4), in the order of the depth. All threads of the block must come.
__device__ inline void multiply_simt(const Strided2D& a, const Strided2D& b, int64_t m0, int64_t n0,
                                     int64_t m, int64_t n, int64_t depth, float (&sums)[4][4]) {
  float* stages = shared<float>();
  float from_a[4], from_b[4];
  fetch(a, m0, 0, m, depth, from_a);
  fetch(b, n0, 0, n, depth, from_b);
  int parity = 0;
  for (int64_t k0 = 0; k0 < depth; k0 += kSimtDepth, parity ^= 1) {
    float *stage_a = stages + parity * 2 * kSimtStage, *stage_b = stage_a + kSimtStage;
    place(a, from_a, stage_a);
    place(b, from_b, stage_b);
    __syncthreads();
    if (k0 + kSimtDepth < depth) {
      fetch(a, m0, k0 + kSimtDepth, m, depth, from_a);
      fetch(b, n0, k0 + kSimtDepth, n, depth, from_b);
    }
    const float *row_a = stage_a + threadIdx.x / 16 * 4, *row_b = stage_b + threadIdx.x % 16 * 4;
#pragma unroll
    for (int k = 0; k < kSimtDepth; ++k) {
      const Vec<float, 4> x = load_vec<float, 4>(row_a + k * kSimtPitch);
      const Vec<float, 4> y = load_vec<float, 4>(row_b + k * kSimtPitch);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += x.v[i] * y.v[j];
    }
  }
}

/// Writes what multiply_simt gave.
__device__ inline void finish_simt(const Epilogue& e, int64_t member, int64_t m0, int64_t n0,
                                   int64_t m, int64_t n, float (&sums)[4][4]) {
  const int64_t col = n0 + threadIdx.x % 16 * 4;
  const int count = int(n - col < 4 ? n - col : 4);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = m0 + threadIdx.x / 16 * 4 + i;
    if (row < m && count > 0) finish(e, member, row, col, count, sums[i]);
  }
}

}  // namespace olm::kernels::cuda_gemm
