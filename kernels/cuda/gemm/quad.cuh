#pragma once
// Four neighbouring numbers of a matrix whose dtype is known at run time.
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels::cuda_gemm {

/// The first `count` of the elements from i on, widened, then zeros; in one access where there are
/// four and `vectors` says that i is at a multiple of their size.
__device__ inline void load_quad(const void* x, DType t, int64_t i, bool vectors, int count,
                                 float (&v)[4]) {
  const bool whole = vectors && count == 4;
  switch (t) {
    case DType::bf16:
      return load_floats(v, in<bfloat16_t>(x) + i, whole, count);
    case DType::f16:
      return load_floats(v, in<float16_t>(x) + i, whole, count);
    default:
      return load_floats(v, in<float>(x) + i, whole, count);
  }
}
/// Rounds the first `count` to the elements from i on.
__device__ inline void store_quad(void* x, DType t, int64_t i, bool vectors, int count,
                                  const float (&v)[4]) {
  const bool whole = vectors && count == 4;
  switch (t) {
    case DType::bf16:
      return store_floats(out<bfloat16_t>(x) + i, v, whole, count);
    case DType::f16:
      return store_floats(out<float16_t>(x) + i, v, whole, count);
    default:
      return store_floats(out<float>(x) + i, v, whole, count);
  }
}

/// True where every `pitch`-th element from p on begins four that one access takes (p null: yes).
__host__ __device__ inline bool quads_fit(const void* p, DType t, int64_t pitch) {
  return pitch % 4 == 0 && reinterpret_cast<uintptr_t>(p) % (4 * size_of(t)) == 0;
}

}  // namespace olm::kernels::cuda_gemm
