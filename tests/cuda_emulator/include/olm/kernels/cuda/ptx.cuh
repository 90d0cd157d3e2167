#pragma once
// The emulator's stand-in for kernels/cuda/ptx.cuh: the same functions without PTX.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <olm/kernels/base/types.h>

namespace olm::kernels {

/// The dynamic shared memory of the block.
inline unsigned char* shared_memory() { return cuda_emulator::shared_memory(); }

inline uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - shared_memory());
}

/// Starts a copy of 16 bytes from global to shared memory, both aligned to 16; zeros arrive, and
/// nothing is read, where it is not `valid`.
inline void cp_async16(void* shared, const void* global, bool valid) {
  cuda_emulator::copy_async(shared, global, valid);
}
/// Makes a group of this thread's copies since the last one.
inline void cp_async_commit() { cuda_emulator::commit_copies(); }
/// Waits until at most `kept` of this thread's groups, the youngest, are in flight.
template <int kept>
inline void cp_async_wait() {
  cuda_emulator::wait_for_copies(kept);
}

/// Loads four 8 × 8 matrices of 16-bit numbers: lane 8·m + r gives the address of row r of matrix
/// m. Lane l receives, of each, row l / 4, columns 2·(l % 4) and the next; of the transposed
/// matrix where `transpose`.
template <bool transpose>
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  cuda_emulator::load_matrices(r, row, transpose);
}

/// D += A · B of a warp, A [16, 16] row-major, B [16, 8] column-major, both of T, D [16, 8] in f32.
/// With g = lane / 4, t = 2 · (lane % 4): a holds A[g][t..], A[g+8][t..], A[g][t+8..],
/// A[g+8][t+8..]; b holds B[t..][g], B[t+8..][g]; d holds D[g][t], D[g][t+1], D[g+8][t],
/// D[g+8][t+1].
template <class T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, bfloat16_t> || std::is_same_v<T, float16_t>);
  constexpr bool kBf16 = std::is_same_v<T, bfloat16_t>;
  cuda_emulator::multiply_matrices(
      d, a, b, kBf16 ? cuda_emulator::Element::bf16 : cuda_emulator::Element::f16);
}

/// D += A · B of a warp, A [16, 8], B [8, 8], of f32 of which tf32 keeps 10 bits of mantissa. With
/// t = lane % 4: a holds A[g][t], A[g+8][t], A[g][t+4], A[g+8][t+4]; b holds B[t][g], B[t+4][g].
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  cuda_emulator::multiply_matrices(d, a, b, cuda_emulator::Element::tf32);
}

/// 2^x to about 2 ulp; subnormal results are 0.
inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

/// Two numbers rounded to T, nearest even, the first in the low half.
template <class T>
inline uint32_t pack2(float low, float high) {
  return uint32_t(T(low).bits) | uint32_t(T(high).bits) << 16;
}

/// A float16_t widened, and a float rounded to one, nearest even.
inline float widen_f16(float16_t x) { return float(x); }
inline float16_t round_to_f16(float x) { return float16_t(x); }

}  // namespace olm::kernels
