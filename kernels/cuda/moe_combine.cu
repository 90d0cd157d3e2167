// Results of experts go back to their tokens. Forward: a thread makes neighbours of y that one
// access of 16 bytes takes, from top_k rows in the order of k. Backward: a warp takes a pair, so
// that dy of a token comes from memory once and for its other pairs from L1. Memory bound: each row
// is read once and written once.
#include <olm/kernels/moe_combine.h>
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/reduce.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {
namespace {

constexpr int64_t kBlock = 256;

/// y, N neighbours to a thread.
template <class T, int N>
__global__ void combine(const T* x, const int32_t* positions, const float* weights,
                        const T* residual, T* y, int64_t tokens, int64_t top_k, int64_t cols,
                        Faults faults) {
  const int64_t parts = cols / N, pairs = tokens * top_k;
  for (int64_t i = global_thread(); i < tokens * parts; i += global_threads()) {
    const int64_t token = i / parts, col = i % parts * N;
    float sum[N] = {};
    for (int64_t p = token * top_k; p < (token + 1) * top_k; ++p) {
      if (!faults.check(positions[p], p, pairs)) continue;
      const Vec<T, N> row = load_vec<T, N>(x + positions[p] * cols + col);
      const float weight = weights ? weights[p] : 1.0f;
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += weight * to_float(row.v[j]);
    }
    Vec<T, N> result;
    if (residual) {
      const Vec<T, N> more = load_vec<T, N>(residual + token * cols + col);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += to_float(more.v[j]);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) result.v[j] = from_float<T>(sum[j]);
    store_vec(y + token * cols + col, result);
  }
}

template <class T, int N>
__global__ void combine_backward(T* dx, float* dweights, const T* dy, const T* x,
                                 const float* weights, const int32_t* positions, int64_t pairs,
                                 int64_t top_k, int64_t cols, Faults faults) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t warps = global_threads() / kWarp;
  for (int64_t p = global_thread() / kWarp; p < pairs; p += warps) {
    const int64_t position = positions[p];
    if (uint64_t(position) >= uint64_t(pairs)) {
      if (lane == 0) faults.report(position, p, pairs);
      continue;
    }
    const float weight = dx ? weights[p] : 0.0f;
    float dot = 0;
    for (int64_t col = lane * N; col < cols; col += kWarp * N) {
      const Vec<T, N> g = load_vec<T, N>(dy + p / top_k * cols + col);
      if (dweights) {
        const Vec<T, N> row = load_vec<T, N>(x + position * cols + col);
#pragma unroll
        for (int j = 0; j < N; ++j) dot += to_float(row.v[j]) * to_float(g.v[j]);
      }
      if (!dx) continue;
      Vec<T, N> result;
#pragma unroll
      for (int j = 0; j < N; ++j) result.v[j] = from_float<T>(weight * to_float(g.v[j]));
      store_vec(dx + position * cols + col, result);
    }
    if (!dweights) continue;
    dot = warp_sum(dot);
    if (lane == 0) dweights[p] = dot;
  }
}

template <class T, int N>
void run_combine(const MoECombine& k) {
  launch(combine<T, N>,
         {.grid = blocks_for(k.tokens * (k.cols / N), kBlock, 65536),
          .block = kBlock,
          .stream = k.stream},
         in<T>(k.x), k.positions, in<float>(k.weights), in<T>(k.residual), out<T>(k.y), k.tokens,
         k.top_k, k.cols, Faults(k.name, k.stream));
}

template <class T, int N>
void run_backward(const MoECombineBackward& k) {
  const int64_t pairs = k.tokens * k.top_k;
  launch(combine_backward<T, N>,
         {.grid = blocks_for(pairs, kBlock / kWarp, 65536), .block = kBlock, .stream = k.stream},
         out<T>(k.dx), out<float>(k.dweights), in<T>(k.dy), in<T>(k.x), in<float>(k.weights),
         k.positions, pairs, k.top_k, k.cols, Faults(k.name, k.stream));
}

}  // namespace

void run(Cuda, const MoECombine& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    if (is_vectorizable<T>(k.cols, k.x, k.y, k.residual))
      run_combine<T, kVec<T>>(k);
    else
      run_combine<T, 1>(k);
  });
}

void run(Cuda, const MoECombineBackward& k) {
  visit_cuda_float(k.dtype, [&]<class T>() {
    if (is_vectorizable<T>(k.cols, k.dx, k.dy, k.x))
      run_backward<T, kVec<T>>(k);
    else
      run_backward<T, 1>(k);
  });
}

}  // namespace olm::kernels
