#pragma once
// Four neighbouring numbers of a matrix whose dtype is known at run time.
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels::cuda_gemm {

/// Element i of memory of a float dtype.
__device__ inline float load_number(const void* x, DType t, int64_t i) {
  switch (t) {
    case DType::bf16:
      return to_float(in<bfloat16_t>(x)[i]);
    case DType::f16:
      return to_float(in<float16_t>(x)[i]);
    default:
      return in<float>(x)[i];
  }
}

template <class T>
__device__ inline void load_quad(const T* x, bool vectors, int count, float (&v)[4]) {
  if (vectors && count == 4) {
    const Vec<T, 4> four = load_vec<T, 4>(x);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = to_float(four.v[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = j < count ? to_float(x[j]) : 0.0f;
  }
}
/// The first `count` of the elements from i on, then zeros; in one access where there are four and
/// `vectors` says that i is at a multiple of their size.
__device__ inline void load_quad(const void* x, DType t, int64_t i, bool vectors, int count,
                                 float (&v)[4]) {
  switch (t) {
    case DType::bf16:
      return load_quad(in<bfloat16_t>(x) + i, vectors, count, v);
    case DType::f16:
      return load_quad(in<float16_t>(x) + i, vectors, count, v);
    default:
      return load_quad(in<float>(x) + i, vectors, count, v);
  }
}

template <class T>
__device__ inline void store_quad(T* x, bool vectors, int count, const float (&v)[4]) {
  if (vectors && count == 4) {
    Vec<T, 4> four;
#pragma unroll
    for (int j = 0; j < 4; ++j) four.v[j] = from_float<T>(v[j]);
    store_vec(x, four);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < count) x[j] = from_float<T>(v[j]);
  }
}
/// Rounds the first `count` to the elements from i on.
__device__ inline void store_quad(void* x, DType t, int64_t i, bool vectors, int count,
                                  const float (&v)[4]) {
  switch (t) {
    case DType::bf16:
      return store_quad(out<bfloat16_t>(x) + i, vectors, count, v);
    case DType::f16:
      return store_quad(out<float16_t>(x) + i, vectors, count, v);
    default:
      return store_quad(out<float>(x) + i, vectors, count, v);
  }
}

/// True where every `pitch`-th element from p on begins four that one access takes (p null: yes).
__host__ __device__ inline bool quads_fit(const void* p, DType t, int64_t pitch) {
  return pitch % 4 == 0 && reinterpret_cast<uintptr_t>(p) % (4 * size_of(t)) == 0;
}

}  // namespace olm::kernels::cuda_gemm
