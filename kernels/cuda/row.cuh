#pragma once
// Rows in pieces of N neighbours: whole vectors where rows are aligned, single elements at ragged
// ends and elsewhere, so that one kernel serves both.
#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/reduce.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {

/// N neighbours from p on: as vectors where `whole`, else the first `left` of them and then zeros.
template <int N, class T>
__device__ inline void load_part(T (&x)[N], const T* p, bool whole, int64_t left) {
  constexpr int kWide = N < kVec<T> ? N : kVec<T>;
  if (whole) {
#pragma unroll
    for (int i = 0; i < N; i += kWide) {
      const Vec<T, kWide> v = load_vec<T, kWide>(p + i);
#pragma unroll
      for (int j = 0; j < kWide; ++j) x[i + j] = v.v[j];
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = i < left ? p[i] : T();
  }
}

/// As above, widened.
template <int N, class T>
__device__ inline void load_floats(float (&x)[N], const T* p, bool whole, int64_t left) {
  if constexpr (std::is_same_v<T, float>) {
    load_part(x, p, whole, left);
  } else {
    T narrow[N];
    load_part(narrow, p, whole, left);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = to_float(narrow[i]);
  }
}

/// The reverse: all of them, or the first `left`.
template <int N, class T>
__device__ inline void store_part(T* p, const T (&x)[N], bool whole, int64_t left) {
  constexpr int kWide = N < kVec<T> ? N : kVec<T>;
  if (whole) {
#pragma unroll
    for (int i = 0; i < N; i += kWide) {
      Vec<T, kWide> v;
#pragma unroll
      for (int j = 0; j < kWide; ++j) v.v[j] = x[i + j];
      store_vec(p + i, v);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i < left) p[i] = x[i];
  }
}

/// As above, rounded.
template <int N, class T>
__device__ inline void store_floats(T* p, const float (&x)[N], bool whole, int64_t left) {
  if constexpr (std::is_same_v<T, float>) {
    store_part(p, x, whole, left);
  } else {
    T narrow[N];
#pragma unroll
    for (int i = 0; i < N; ++i) narrow[i] = from_float<T>(x[i]);
    store_part(p, narrow, whole, left);
  }
}

/// N neighbours from p on, where p is aligned for that; widened.
template <int N, class T>
__device__ inline void load_floats(float (&x)[N], const T* p) {
  load_floats(x, p, true, N);
}
template <int N, class T>
__device__ inline void store_floats(T* p, const float (&x)[N]) {
  store_floats(p, x, true, N);
}

/// N neighbours kept as they are stored, in half the registers that single 16-bit numbers take.
template <class T, int N>
struct Packed {
  static constexpr int kWords = int(ceil_div(N * sizeof(T), 4));
  uint32_t words[kWords];

  __device__ void load(const T* p) {
    if constexpr (N * sizeof(T) < 4) {
      words[0] = p->bits;
    } else {
      const auto v = load_vec<uint32_t, kWords>(reinterpret_cast<const uint32_t*>(p));
#pragma unroll
      for (int i = 0; i < kWords; ++i) words[i] = v.v[i];
    }
  }
  /// Sets element i of words that were 0.
  __device__ void set(int i, T x) {
    if constexpr (sizeof(T) == 4)
      words[i] = std::bit_cast<uint32_t>(x);
    else
      words[i / 2] |= uint32_t(x.bits) << (i % 2 * 16);
  }
  __device__ float operator[](int i) const {
    if constexpr (sizeof(T) == 4) {
      return std::bit_cast<float>(words[i]);
    } else {
      T narrow;
      narrow.bits = uint16_t(i % 2 == 0 ? words[i / 2] : words[i / 2] >> 16);
      return to_float(narrow);
    }
  }
};

struct Division {
  int64_t quotient, remainder;
};
/// n / d of numbers that are not negative; in 32 bits, several times faster, where those hold both.
__device__ inline Division divide(int64_t n, int64_t d) {
  if (((n | d) >> 32) == 0) {
    const uint32_t quotient = uint32_t(n) / uint32_t(d);
    return {int64_t(quotient), int64_t(uint32_t(n) - quotient * uint32_t(d))};
  }
  return {n / d, n % d};
}

}  // namespace olm::kernels
