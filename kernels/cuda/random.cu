// Dropout: eight elements to a thread, with the words of two Philox blocks, or of three where the
// offset is not a multiple of four. One element to a thread where memory is not aligned and for the
// last few. Traffic: x once, y once.
#include <olm/kernels/base/philox.h>
#include <olm/kernels/random.h>
#include <olm/kernels/cuda/packet.cuh>

#include <cmath>

namespace olm::kernels {
namespace {

/// Words first to first + 7 of the stream of `seed`.
__device__ inline void philox_words(uint64_t seed, uint64_t first, uint32_t (&words)[kPacket]) {
  uint32_t all[kPacket + 4];
#pragma unroll
  for (int b = 0; b < 3; ++b) {
    Philox4 block = {};
    if (b < 2 || (first & 3) != 0) block = philox(seed, (first >> 2) + uint64_t(b));
#pragma unroll
    for (int j = 0; j < 4; ++j) all[4 * b + j] = block.v[j];
  }
  const auto shift = [&](auto lead) {
#pragma unroll
    for (int j = 0; j < kPacket; ++j) words[j] = all[j + decltype(lead)::value];
  };
  switch (first & 3) {
    case 0:
      return shift(std::integral_constant<int, 0>());
    case 1:
      return shift(std::integral_constant<int, 1>());
    case 2:
      return shift(std::integral_constant<int, 2>());
    default:
      return shift(std::integral_constant<int, 3>());
  }
}

/// y = x · scale where the upper 24 bits of the word are at least `threshold`, else 0.
__global__ void dropout(const void* x, void* y, DType t, int64_t n, int64_t packets, uint64_t seed,
                        uint64_t offset, const uint64_t* base, uint32_t threshold, float scale) {
  offset = random_offset(base, offset);
  for (int64_t p = global_thread(); p < packets; p += global_threads()) {
    const int64_t i = p * kPacket;
    const Packet packet = load_packet(x, t, i);
    uint32_t words[kPacket];
    philox_words(seed, offset + uint64_t(i), words);
    float v[kPacket];
    widen(packet, t, v);
#pragma unroll
    for (int j = 0; j < kPacket; ++j) v[j] = words[j] >> 8 >= threshold ? v[j] * scale : 0.0f;
    store_packet(y, t, i, narrow(v, t));
  }
  for (int64_t i = packets * kPacket + global_thread(); i < n; i += global_threads()) {
    const bool kept = philox_word(seed, offset + uint64_t(i)) >> 8 >= threshold;
    store_float(y, t, i, kept ? load_float(x, t, i) * scale : 0.0f);
  }
}

}  // namespace

void run(Cuda, const Dropout& k) {
  require_packet_dtype("dropout", k.dtype);
  const int64_t packets = is_aligned(k.x, k.y) ? k.n / kPacket : 0;
  const int64_t items = std::max(packets, k.n - packets * kPacket);
  launch(dropout, grid_over(items, k.stream), k.x, k.y, k.dtype, k.n, packets, k.seed, k.offset,
         k.stream.rng_base, uint32_t(std::ceil(k.p * 0x1p24)),
         k.p < 1 ? float(1 / (1 - k.p)) : 0.0f);
}

}  // namespace olm::kernels
