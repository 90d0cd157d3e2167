#pragma once
// CUDA C++ for the host compiler: keywords, indices, barriers, warp collectives, mathematics.
#include <math.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include <cuda_emulator/device_runtime.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#if !defined(__restrict__)
#define __restrict__ __restrict
#endif

inline constexpr int warpSize = 32;

// ---- barriers and fences ------------------------------------------------------------------------
inline void __syncthreads() { olm::cuda_emulator::barrier(0, 0, true); }
inline int __syncthreads_count(int predicate) {
  return olm::cuda_emulator::barrier_count(predicate != 0);
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(predicate == 0) == 0; }
inline void __syncwarp(unsigned mask = ~0u) { olm::cuda_emulator::sync_warp(mask); }
// Memory of the emulated device is sequentially consistent.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __trap() { olm::cuda_emulator::trap(); }

// ---- warp collectives ---------------------------------------------------------------------------
namespace olm::cuda_emulator {
template <class T>
T shuffle_of(unsigned mask, T value, unsigned source_lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, source_lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
inline unsigned indexed_lane(unsigned source, unsigned width) {
  return (lane() & ~(width - 1)) | (source & (width - 1));
}
inline unsigned xor_lane(unsigned bits, unsigned width) {
  const unsigned other = lane() ^ bits;
  return other > (lane() | (width - 1)) ? lane() : other;
}
inline unsigned lane_below(unsigned delta, unsigned width) {
  return (lane() & (width - 1)) >= delta ? lane() - delta : lane();
}
inline unsigned lane_above(unsigned delta, unsigned width) {
  return (lane() & (width - 1)) + delta < width ? lane() + delta : lane();
}
}  // namespace olm::cuda_emulator

#define OLM_EMULATED_SHUFFLES(T)                                                                   \
  inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {                       \
    return olm::cuda_emulator::shuffle_of(                                                         \
        mask, value, olm::cuda_emulator::indexed_lane(unsigned(source), unsigned(width)));         \
  }                                                                                                \
  inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {                     \
    return olm::cuda_emulator::shuffle_of(                                                         \
        mask, value, olm::cuda_emulator::xor_lane(unsigned(bits), unsigned(width)));               \
  }                                                                                                \
  inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {                \
    return olm::cuda_emulator::shuffle_of(mask, value,                                             \
                                          olm::cuda_emulator::lane_below(delta, unsigned(width))); \
  }                                                                                                \
  inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {              \
    return olm::cuda_emulator::shuffle_of(mask, value,                                             \
                                          olm::cuda_emulator::lane_above(delta, unsigned(width))); \
  }
#define OLM_EMULATED_MATCHES(T)                              \
  inline unsigned __match_any_sync(unsigned mask, T value) { \
    uint64_t bits = 0;                                       \
    std::memcpy(&bits, &value, sizeof(T));                   \
    return olm::cuda_emulator::match_any(mask, bits);        \
  }
#define OLM_EMULATED_FOR_EACH(X) \
  X(int) X(unsigned) X(long) X(unsigned long) X(long long) X(unsigned long long) X(float) X(double)
OLM_EMULATED_FOR_EACH(OLM_EMULATED_SHUFFLES)
OLM_EMULATED_FOR_EACH(OLM_EMULATED_MATCHES)
#undef OLM_EMULATED_SHUFFLES
#undef OLM_EMULATED_MATCHES
#undef OLM_EMULATED_FOR_EACH

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return olm::cuda_emulator::ballot(mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate == 0) == 0;
}

// ---- bits ---------------------------------------------------------------------------------------
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

// ---- mathematics --------------------------------------------------------------------------------
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678118654752f); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }

#define OLM_EMULATED_MIN_MAX(T)                       \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
OLM_EMULATED_MIN_MAX(int)
OLM_EMULATED_MIN_MAX(unsigned)
OLM_EMULATED_MIN_MAX(long)
OLM_EMULATED_MIN_MAX(unsigned long)
OLM_EMULATED_MIN_MAX(long long)
OLM_EMULATED_MIN_MAX(unsigned long long)
#undef OLM_EMULATED_MIN_MAX
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

/// Loads through the read-only path; here a plain load whose alignment is checked.
template <class T>
inline T __ldg(const T* p) {
  olm::cuda_emulator::check_alignment(p, alignof(T));
  return *p;
}
