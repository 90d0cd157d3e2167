#pragma once
// Packets: eight neighbours of f32, bf16 or f16 in registers. The dtype is known at run time, so
// that one kernel serves all three; its branches are the same for all threads.
#include <bit>

#include <olm/kernels/cuda/launch.cuh>
#include <olm/kernels/cuda/vec.cuh>

namespace olm::kernels {

inline constexpr int kPacket = 8;

/// Eight neighbours as they lie in memory: in `low` those of 16 bits, in both those of 32.
struct Packet {
  Vec<uint32_t, 4> low, high;
};

__device__ inline const uint32_t* words_at(const void* x, DType t, int64_t i) {
  return reinterpret_cast<const uint32_t*>(in<unsigned char>(x) + i * (t == f32 ? 4 : 2));
}

/// Elements i to i + 7, which begin at a multiple of 16 bytes.
__device__ inline Packet load_packet(const void* x, DType t, int64_t i) {
  const uint32_t* p = words_at(x, t, i);
  Packet packet{load_vec<uint32_t>(p), {}};
  if (t == f32) packet.high = load_vec<uint32_t>(p + 4);
  return packet;
}
__device__ inline void store_packet(void* y, DType t, int64_t i, const Packet& packet) {
  auto* p = const_cast<uint32_t*>(words_at(y, t, i));
  store_vec(p, packet.low);
  if (t == f32) store_vec(p + 4, packet.high);
}

/// One element as it lies in memory, and as a number: several can be loaded before the first of
/// them is waited for.
__device__ inline uint32_t load_bits(const void* x, DType t, int64_t i) {
  return t == f32 ? in<uint32_t>(x)[i] : uint32_t(in<uint16_t>(x)[i]);
}
__device__ inline float widen_bits(uint32_t bits, DType t) {
  if (t == f32) return std::bit_cast<float>(bits);
  if (t == bf16) return std::bit_cast<float>(bits << 16);
  float16_t half;
  half.bits = uint16_t(bits);
  return widen_f16(half);
}
__device__ inline float load_float(const void* x, DType t, int64_t i) {
  return widen_bits(load_bits(x, t, i), t);
}
/// Rounds to nearest even.
__device__ inline void store_float(void* y, DType t, int64_t i, float value) {
  if (t == f32)
    out<float>(y)[i] = value;
  else if (t == bf16)
    out<bfloat16_t>(y)[i] = from_float<bfloat16_t>(value);
  else
    out<float16_t>(y)[i] = from_float<float16_t>(value);
}

/// Elements i to i + 7 wherever they begin.
__device__ inline Packet gather_packet(const void* x, DType t, int64_t i) {
  Packet packet = {};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t first = i + (t == f32 ? j : 2 * j), second = i + (t == f32 ? j + 4 : 2 * j + 1);
    const uint32_t a = load_bits(x, t, first), b = load_bits(x, t, second);
    packet.low.v[j] = t == f32 ? a : a | b << 16;
    packet.high.v[j] = b;
  }
  return packet;
}

/// Element i eight times.
__device__ inline Packet repeat_element(const void* x, DType t, int64_t i) {
  uint32_t bits = load_bits(x, t, i);
  if (t != f32) bits |= bits << 16;
  return {{bits, bits, bits, bits}, {bits, bits, bits, bits}};
}

__device__ inline void widen(const Packet& packet, DType t, float (&v)[kPacket]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t word = packet.low.v[j];
    if (t == f32) {
      v[j] = std::bit_cast<float>(word);
      v[j + 4] = std::bit_cast<float>(packet.high.v[j]);
    } else {
      v[2 * j] = widen_bits(word & 0xffffu, t);
      v[2 * j + 1] = widen_bits(word >> 16, t);
    }
  }
}
/// Rounds to nearest even.
__device__ inline Packet narrow(const float (&v)[kPacket], DType t) {
  Packet packet;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    packet.low.v[j] = t == f32    ? std::bit_cast<uint32_t>(v[j])
                      : t == bf16 ? pack2<bfloat16_t>(v[2 * j], v[2 * j + 1])
                                  : pack2<float16_t>(v[2 * j], v[2 * j + 1]);
    packet.high.v[j] = std::bit_cast<uint32_t>(v[j + 4]);
  }
  return packet;
}

/// Throws for dtypes that packets do not have.
inline void require_packet_dtype(const char* op, DType t) {
  require(t == f32 || t == bf16 || t == f16, op, ": cuda has f32, bf16 and f16, got ", t);
}

}  // namespace olm::kernels
