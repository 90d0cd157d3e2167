#pragma once
// Operands of pointwise kernels with strides. Dimensions that all of them walk as one are joined,
// so that one or two remain nearly always. Where each operand goes on by one or stays along the
// last of them, a thread handles a packet of eight elements; else one element.
#include <olm/kernels/pointwise.h>
#include <olm/kernels/cuda/packet.cuh>
#include <olm/kernels/cuda/strided.cuh>

namespace olm::kernels {

/// A launch over n elements of which the first `packets` · 8 are handled by eight.
inline Launch pointwise_launch(int64_t n, int64_t packets, const Stream& stream) {
  return grid_over(std::max(packets, n - packets * kPacket), stream);
}

/// Calls on_packet(i) for the packets of this thread, i the first element, and on_element(i) for
/// its elements behind them.
template <class OnPacket, class OnElement>
__device__ inline void for_pointwise(int64_t n, int64_t packets, OnPacket&& on_packet,
                                     OnElement&& on_element) {
  for (int64_t p = global_thread(); p < packets; p += global_threads()) on_packet(p * kPacket);
  for (int64_t i = packets * kPacket + global_thread(); i < n; i += global_threads()) on_element(i);
}

/// N operands over the elements of a result.
template <int N>
struct Operands : StridedShape<N> {
  const void* data[N] = {};
  int64_t packets = 0;
};

/// The last stride of an operand: 0 or 1 where there are packets.
template <int N>
__device__ inline int64_t last_stride(const Operands<N>& at, int k) {
  return at.strides[k][at.rank - 1];
}

/// Elements i to i + 7 of floats.
template <int N>
__device__ inline void load_packets(const Operands<N>& at, DType t, int64_t i,
                                    float (&v)[N][kPacket]) {
  const Offsets<N> offsets = offsets_of(at, i);
  Packet packets[N];
#pragma unroll
  for (int k = 0; k < N; ++k)
    packets[k] = last_stride(at, k) == 1 ? load_packet(at.data[k], t, offsets.of[k])
                                         : repeat_element(at.data[k], t, offsets.of[k]);
#pragma unroll
  for (int k = 0; k < N; ++k) widen(packets[k], t, v[k]);
}

/// Joins dimensions of `operands`; says whether there are packets, for results at y and more (null:
/// none).
template <int N, class... Results>
Operands<N> operands_of(int rank, const int64_t* shape, const Strided* const (&operands)[N],
                        Results... y) {
  Operands<N> at;
  for (int i = 0; i < rank; ++i) {
    at.n *= shape[i];
    if (shape[i] == 1) continue;
    bool joins = at.rank > 0;
    for (int k = 0; joins && k < N; ++k)
      joins = at.strides[k][at.rank - 1] == operands[k]->strides[i] * shape[i];
    if (!joins) at.shape[at.rank++] = 1;
    at.shape[at.rank - 1] *= shape[i];
    for (int k = 0; k < N; ++k) at.strides[k][at.rank - 1] = operands[k]->strides[i];
  }
  if (at.rank == 0) at.shape[at.rank++] = 1;
  const int last = at.rank - 1;
  bool has = is_aligned(y...) && (at.rank == 1 || at.shape[last] % kPacket == 0);
  for (int k = 0; k < N; ++k) {
    at.data[k] = operands[k]->data;
    const int64_t step = at.strides[k][last];
    has = has && (step == 0 || (step == 1 && is_aligned(at.data[k])));
    for (int d = 0; d < last; ++d) has = has && (step == 0 || at.strides[k][d] % kPacket == 0);
  }
  at.packets = has ? at.n / kPacket : 0;
  return at;
}

}  // namespace olm::kernels
