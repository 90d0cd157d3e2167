#pragma once
// Reductions over the lanes of a warp and the threads of a block, in an order that is fixed.
#include <olm/kernels/cuda/launch.cuh>

namespace olm::kernels {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarp = 32;

struct Sum {
  template <class V>
  __device__ V operator()(V a, V b) const {
    return a + b;
  }
};
/// The larger; NaN where either is.
struct Max {
  __device__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
  template <class V>
  __device__ V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

/// v of the lane that is `distance` away by exclusive or; structs have overloads of their own.
template <class V>
__device__ inline V from_lane(V v, int distance) {
  return __shfl_xor_sync(kAllLanes, v, distance);
}

/// Two floats that are reduced as one value.
struct Pair {
  float a, b;
};
__device__ inline Pair operator+(Pair p, Pair q) { return {p.a + q.a, p.b + q.b}; }
__device__ inline Pair from_lane(Pair p, int distance) {
  return {from_lane(p.a, distance), from_lane(p.b, distance)};
}

/// op over all lanes, or over each team of `lanes`, a power of two, for every lane. All of the warp
/// must come.
template <class V, class Op>
__device__ inline V warp_reduce(V v, Op op, int lanes = kWarp) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) v = op(v, from_lane(v, distance));
  return v;
}

/// op over all threads, for every thread; blocks of whole warps. All of them must come. V has at
/// most 16 bytes.
template <class V, class Op>
__device__ inline V block_reduce(V v, Op op) {
  static_assert(sizeof(V) * kWarp <= kReduceBytes);
  auto* of_warp = reinterpret_cast<V*>(shared_memory());
  const int warps = int(blockDim.x) / kWarp;
  v = warp_reduce(v, op);
  if (warps == 1) return v;
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = v;
  __syncthreads();
  v = of_warp[0];
  for (int w = 1; w < warps; ++w) v = op(v, of_warp[w]);
  __syncthreads();  // the memory is used again
  return v;
}

template <class V>
__device__ inline V warp_sum(V v) {
  return warp_reduce(v, Sum{});
}
template <class V>
__device__ inline V warp_max(V v) {
  return warp_reduce(v, Max{});
}
template <class V>
__device__ inline V block_sum(V v) {
  return block_reduce(v, Sum{});
}
template <class V>
__device__ inline V block_max(V v) {
  return block_reduce(v, Max{});
}

/// The sum of v over the threads before this one; `total` receives that of the block. As
/// block_reduce otherwise.
template <class V>
__device__ inline V block_sum_before(V v, V& total) {
  static_assert(sizeof(V) * kWarp <= kReduceBytes);
  auto* of_warp = reinterpret_cast<V*>(shared_memory());
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const V before = __shfl_up_sync(kAllLanes, v, unsigned(distance));
    if (lane >= distance) v += before;
  }
  if (lane == kWarp - 1) of_warp[warp] = v;
  V before = __shfl_up_sync(kAllLanes, v, 1u);
  if (lane == 0) before = 0;
  __syncthreads();
  V of_warps_before = 0;
  total = 0;
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) {
    if (w == warp) of_warps_before = total;
    total += of_warp[w];
  }
  __syncthreads();  // the memory is used again
  return of_warps_before + before;
}

/// Threads of a block that goes over `cols` elements, each thread over `per_thread` at a time.
inline int64_t row_block(int64_t cols, int64_t per_thread = 4) {
  return std::clamp<int64_t>(round_up(ceil_div(cols, per_thread), kWarp), kWarp, 1024);
}

}  // namespace olm::kernels
