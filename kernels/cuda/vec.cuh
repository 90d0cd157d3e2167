#pragma once
// Numbers in device code: widening and rounding, and several neighbours in one access of up to 16
// bytes.
#include <cstdint>
#include <type_traits>

#include <olm/kernels/base/types.h>
#include <olm/kernels/cuda/ptx.cuh>

namespace olm::kernels {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bfloat16_t x) { return float(x); }
__device__ inline float to_float(float16_t x) { return widen_f16(x); }

/// x rounded to T, nearest even.
template <class T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else if constexpr (std::is_same_v<T, float16_t>)
    return round_to_f16(x);
  else
    return T(x);
}

/// N neighbours.
template <class T, int N>
struct alignas(N * sizeof(T)) Vec {
  static_assert(N * sizeof(T) <= 16 && (N & (N - 1)) == 0);
  T v[N];
};
/// How many of T one access takes.
template <class T>
inline constexpr int kVec = int(16 / sizeof(T));
/// How many are read as From and written as To at a time.
template <class From, class To>
inline constexpr int kVecBetween = kVec<From> < kVec<To> ? kVec<From> : kVec<To>;

template <class T, int N = kVec<T>>
__device__ inline Vec<T, N> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, N>*>(p);
}
template <class T, int N>
__device__ inline void store_vec(T* p, const Vec<T, N>& x) {
  *reinterpret_cast<Vec<T, N>*>(p) = x;
}

/// True where all of these lie at multiples of 16 bytes (null: yes).
template <class... Pointers>
OLM_HD bool is_aligned(Pointers... p) {
  return ((reinterpret_cast<uintptr_t>(p) % 16 == 0) && ...);
}
/// True where rows of `cols` elements of T at all of these begin at multiples of 16 bytes, so that
/// they can be read as vectors.
template <class T, class... Pointers>
bool is_vectorizable(int64_t cols, Pointers... p) {
  return cols % kVec<T> == 0 && is_aligned(p...);
}

}  // namespace olm::kernels
