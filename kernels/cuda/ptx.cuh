#pragma once
// The only inline PTX of the project: what CUDA C++ has no name for. Every wrapper is one
// instruction of sm_80; the emulator of the tests has a header of this name with the same
// functions.
#include <cstdint>
#include <type_traits>

#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// The dynamic shared memory of the block.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char olm_shared_memory[];
  return olm_shared_memory;
}

__device__ inline uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

/// Starts a copy of 16 bytes from global to shared memory, both aligned to 16; zeros arrive, and
/// nothing is read, where it is not `valid`.
__device__ inline void cp_async16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
/// Makes a group of this thread's copies since the last one.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `kept` of this thread's groups, the youngest, are in flight.
template <int kept>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kept) : "memory");
}

/// Loads four 8 × 8 matrices of 16-bit numbers: lane 8·m + r gives the address of row r of matrix
/// m. Lane l receives, of each, row l / 4, columns 2·(l % 4) and the next; of the transposed
/// matrix where `transpose`.
template <bool transpose>
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  if constexpr (transpose)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// D += A · B of a warp, A [16, 16] row-major, B [16, 8] column-major, both of T, D [16, 8] in f32.
/// With g = lane / 4, t = 2 · (lane % 4): a holds A[g][t..], A[g+8][t..], A[g][t+8..],
/// A[g+8][t+8..]; b holds B[t..][g], B[t+8..][g]; d holds D[g][t], D[g][t+1], D[g+8][t],
/// D[g+8][t+1].
template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, bfloat16_t> || std::is_same_v<T, float16_t>);
  if constexpr (std::is_same_v<T, bfloat16_t>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// D += A · B of a warp, A [16, 8], B [8, 8], of f32 of which tf32 keeps 10 bits of mantissa. With
/// t = lane % 4: a holds A[g][t], A[g+8][t], A[g][t+4], A[g+8][t+4]; b holds B[t][g], B[t+4][g].
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// 2^x to about 2 ulp; subnormal results are 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two numbers rounded to T, nearest even, the first in the low half.
template <class T>
__device__ inline uint32_t pack2(float low, float high) {
  uint32_t r;
  if constexpr (std::is_same_v<T, bfloat16_t>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

/// A float16_t widened, and a float rounded to one, nearest even.
__device__ inline float widen_f16(float16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ inline float16_t round_to_f16(float x) {
  float16_t y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

}  // namespace olm::kernels
