#pragma once
// Numbers in device code: widening and rounding, and several neighbours in one access of up to 16
// bytes.
#include <cstdint>
#include <type_traits>

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

template <class T, int N = kVec<T>>
__device__ inline Vec<T, N> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, N>*>(p);
}
template <class T, int N>
__device__ inline void store_vec(T* p, const Vec<T, N>& x) {
  *reinterpret_cast<Vec<T, N>*>(p) = x;
}

/// True where rows of `cols` elements of T at p begin at multiples of 16 bytes (p null: yes), so
/// that they can be read as vectors.
template <class T>
bool is_vectorizable(int64_t cols, const void* p) {
  return cols % kVec<T> == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
}
template <class T, class... Pointers>
bool is_vectorizable(int64_t cols, const void* p, Pointers... more) {
  return is_vectorizable<T>(cols, p) && is_vectorizable<T>(cols, more...);
}

}  // namespace olm::kernels
