#pragma once
// A tile of a GEMM by tensor cores: C [kM, kN] of a block, kWarpM x kWarpN of it for each warp, in
// three stages of shared memory: while one is multiplied, the next two are on their way.
#include <olm/kernels/cuda/gemm/epilogue.cuh>
#include <olm/kernels/cuda/grouped_gemm/feed.cuh>

namespace olm::kernels::cuda_grouped {

/// How A and B lie and come: see Feed. In 128 x 128 warps take 64 x 32, else 32 x 32.
template <class Element, int m, int n, bool a_in_depth, bool b_in_depth, bool a_async, bool b_async>
struct Shape {
  using T = Element;
  static constexpr int kM = m, kN = n, kWarpM = m / 2, kWarpN = 32;
  static constexpr int kThreads = 2 * (n / kWarpN) * 32;
  static constexpr int kStages = 3;
  using A = Feed<T, m, a_in_depth, a_async, kThreads>;
  using B = Feed<T, n, b_in_depth, b_async, kThreads>;
  static constexpr int kStage = A::kStage + B::kStage;  // elements: A's, then B's
  static constexpr bool kAInDepth = a_in_depth, kBInDepth = b_in_depth;
  /// Sums of kWarpM rows on their way to C; padded so that banks differ from row to row.
  static constexpr int kPitch = n + 8;
  static constexpr size_t kShared =
      std::max(kStages * kStage * sizeof(T), kWarpM* kPitch * sizeof(float));
};

/// sums[i][j] is the fragment of rows 16 · i and columns 8 · j of the warp's part.
template <class S>
using Sums = float[S::kWarpM / 16][S::kWarpN / 8][4];

template <class S>
__device__ inline void multiply_stage(const typename S::T* stage, Sums<S>& sums) {
  const int warp = int(threadIdx.x) / 32;
  const int row = warp % 2 * S::kWarpM, col = warp / 2 * S::kWarpN;
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t b[S::kWarpN / 16][4];
#pragma unroll
    for (int j = 0; j < S::kWarpN / 16; ++j)
      S::B::load_b(stage + S::A::kStage, col + 16 * j, k, b[j]);
#pragma unroll
    for (int i = 0; i < S::kWarpM / 16; ++i) {
      uint32_t a[4];
      S::A::load_a(stage, row + 16 * i, k, a);
#pragma unroll
      for (int j = 0; j < S::kWarpN / 8; ++j)
        mma_m16n8k16<typename S::T>(sums[i][j], a, {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
    }
  }
}

/// sums += op(A) · op(B), stage by stage. All threads of the block must come.
template <class S>
__device__ inline void multiply(const Source& a, const Source& b, Sums<S>& sums) {
  auto* stages = shared<typename S::T>();
  typename S::A feed_a(a);
  typename S::B feed_b(b);
  const int64_t steps = (a.depth + kDepth - 1) / kDepth;
  const auto copy = [&](int64_t step) {
    auto* stage = stages + step % S::kStages * S::kStage;
    if (step < steps) {
      feed_a.copy(stage, step * kDepth);
      feed_b.copy(stage + S::A::kStage, step * kDepth);
    }
    cp_async_commit();  // also where there is none, so that waiting can count them
  };
  const auto fetch = [&](int64_t step) {
    feed_a.fetch(step * kDepth);
    feed_b.fetch(step * kDepth);
  };
  const auto put = [&](int64_t step) {
    auto* stage = stages + step % S::kStages * S::kStage;
    feed_a.put(stage);
    feed_b.put(stage + S::A::kStage);
  };
#pragma unroll
  for (int step = 0; step < S::kStages - 1; ++step) copy(step);
  fetch(0);
  put(0);
  for (int64_t step = 0; step < steps; ++step) {
    cp_async_wait<S::kStages - 2>();
    __syncthreads();  // this stage is there, and the one that comes next is read no more
    copy(step + S::kStages - 1);
    fetch(step + 1);
    multiply_stage<S>(stages + step % S::kStages * S::kStage, sums);
    put(step + 1);
  }
  cp_async_wait<0>();
  __syncthreads();
}

/// Writes rows [m0, m0 + kM) and columns [n0, n0 + kN) of C as far as they are among [m, n]. Sums
/// pass through shared memory, half of the rows at a time, so that C is written in long runs.
template <class S>
__device__ inline void finish_mma(const cuda_gemm::Epilogue& e, int64_t member, int64_t m0,
                                  int64_t n0, int64_t m, int64_t n, const Sums<S>& sums) {
  auto* memory = shared<float>();
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  constexpr int kQuads = S::kN / 4;
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    if (warp % 2 == half) {
      float* to = memory + lane / 4 * S::kPitch + warp / 2 * S::kWarpN + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < S::kWarpM / 16; ++i)
#pragma unroll
        for (int j = 0; j < S::kWarpN / 8; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            store_vec(to + (16 * i + 8 * h) * S::kPitch + 8 * j,
                      Vec<float, 2>{sums[i][j][2 * h], sums[i][j][2 * h + 1]});
    }
    __syncthreads();
    for (int q = int(threadIdx.x); q < S::kWarpM * kQuads; q += S::kThreads) {
      const int64_t row = m0 + half * S::kWarpM + q / kQuads, col = n0 + q % kQuads * 4;
      if (row >= m || col >= n) continue;
      const Vec<float, 4> four =
          load_vec<float, 4>(memory + q / kQuads * S::kPitch + q % kQuads * 4);
      float v[4] = {four.v[0], four.v[1], four.v[2], four.v[3]};
      cuda_gemm::finish(e, member, row, col, int(n - col < 4 ? n - col : 4), v);
    }
    __syncthreads();
  }
}

}  // namespace olm::kernels::cuda_grouped
