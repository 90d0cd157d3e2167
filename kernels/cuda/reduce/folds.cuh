#pragma once
// What reductions fold: how a state begins, takes an element, is joined, and becomes a result.
#include <cmath>
#include <limits>

#include <olm/kernels/reduce.h>
#include <olm/kernels/cuda/packet.cuh>
#include <olm/kernels/cuda/reduce.cuh>

namespace olm::kernels::cuda_reduce {

// Folds: the values they read, their state, and how it begins, takes an element and is joined.
// `ref` is a value known from an earlier fold, `r` the index along the axis.
template <class V>
struct Total {
  using Value = V;
  using State = V;
  __device__ static State neutral() { return 0; }
  __device__ static State term(V x, float, int64_t) { return x; }
  __device__ static State join(State a, State b) { return a + b; }
};
/// 0 instead of NaN and infinities, which exp and log carry by themselves.
__device__ inline float finite_or_zero(float v) {
  return fabsf(v) <= std::numeric_limits<float>::max() ? v : 0.0f;
}
struct Powers : Total<float> {
  __device__ static State term(float x, float ref, int64_t) {
    return expf(x - finite_or_zero(ref));
  }
};

/// Squares of what lies beyond kTiny⁻¹ overflow: they are summed times kTiny² too, in b.
constexpr float kTiny = 0x1p-70f;
struct Squares {
  using Value = float;
  using State = Pair;
  __device__ static State neutral() { return {0, 0}; }
  __device__ static State term(float x, float ref, int64_t) {
    const float centred = x - ref, tiny = centred * kTiny;
    return {centred * centred, tiny * tiny};
  }
  __device__ static State join(State a, State b) { return a + b; }
};

template <class V>
struct ExtremeState {
  V value;
  int64_t index;
};
/// The first of the largest or smallest; a NaN goes before all numbers.
template <class V, bool largest>
struct Extreme {
  using Value = V;
  using State = ExtremeState<V>;
  __device__ static State neutral() {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    if constexpr (std::is_same_v<V, float>)
      return {largest ? -INFINITY : INFINITY, kNone};
    else
      return {largest ? std::numeric_limits<V>::min() : std::numeric_limits<V>::max(), kNone};
  }
  __device__ static State term(V x, float, int64_t r) { return {x, r}; }
  __device__ static State join(State a, State b) {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool tie = a.value == b.value || (a_nan && b_nan);
    const bool beyond = largest ? a.value > b.value : a.value < b.value;
    return (tie ? a.index < b.index : a_nan || beyond) ? a : b;
  }
};

/// What results are made of.
struct Result {
  ReduceOp op = ReduceOp::sum;
  DType dtype = f32;
  void* y = nullptr;
  const float* ref = nullptr;
  float divisor = 1;
};
__device__ inline void finish(const Result& to, int64_t i, float sum) {
  if (to.op == ReduceOp::mean) sum /= to.divisor;
  if (to.op == ReduceOp::logsumexp) sum = finite_or_zero(to.ref[i]) + logf(sum);
  store_float(to.y, to.dtype, i, sum);
}
__device__ inline void finish(const Result& to, int64_t i, uint64_t sum) {
  if (to.dtype == i32)
    out<uint32_t>(to.y)[i] = uint32_t(sum);
  else
    out<uint64_t>(to.y)[i] = sum;
}
__device__ inline void finish(const Result& to, int64_t i, Pair squares) {
  const bool overflowed = squares.a > std::numeric_limits<float>::max();
  store_float(to.y, to.dtype, i,
              overflowed ? squares.b / to.divisor / kTiny / kTiny : squares.a / to.divisor);
}
template <class V>
__device__ inline void finish(const Result& to, int64_t i, ExtremeState<V> extreme) {
  if (to.op == ReduceOp::argmax || to.op == ReduceOp::argmin)
    out<int64_t>(to.y)[i] = extreme.index;
  else if constexpr (std::is_same_v<V, float>)
    store_float(to.y, to.dtype, i, extreme.value);
  else
    finish(to, i, uint64_t(extreme.value));
}

}  // namespace olm::kernels::cuda_reduce
