// Binary ops and their derivatives. Where the operands lie in rows or are repeated along them,
// eight elements to a thread, read and written 16 bytes at a time; else one element to a thread,
// found by division. One kernel per op, the dtype at run time. Traffic: each operand once, the
// results once.
#include <olm/kernels/pointwise-inl.h>
#include <olm/kernels/cuda/pointwise/operands.cuh>

namespace olm::kernels {
namespace {

template <class Op>
__global__ void binary(Op op, const __grid_constant__ Operands<2> at, void* y, DType t) {
  for_pointwise(
      at.n, at.packets,
      [&](int64_t i) {
        float v[2][kPacket];
        load_packets(at, t, i, v);
#pragma unroll
        for (int j = 0; j < kPacket; ++j) v[0][j] = op.f(v[0][j], v[1][j]);
        store_packet(y, t, i, narrow(v[0], t));
      },
      [&](int64_t i) {
        const Offsets<2> offsets = offsets_of(at, i);
        const float a = load_float(at.data[0], t, offsets.of[0]);
        const float b = load_float(at.data[1], t, offsets.of[1]);
        store_float(y, t, i, op.f(a, b));
      });
}

template <class Op>
__global__ void binary_integers(Op op, const __grid_constant__ Operands<2> at, void* y, DType t) {
  for (int64_t i = global_thread(); i < at.n; i += global_threads()) {
    const Offsets<2> offsets = offsets_of(at, i);
    const int64_t a = offsets.of[0], b = offsets.of[1];
    if (t == i32)
      out<int32_t>(y)[i] = op.f(in<int32_t>(at.data[0])[a], in<int32_t>(at.data[1])[b]);
    else
      out<int64_t>(y)[i] = op.f(in<int64_t>(at.data[0])[a], in<int64_t>(at.data[1])[b]);
  }
}

template <class Op>
__global__ void binary_backward(Op op, const __grid_constant__ Operands<2> at, const void* dy,
                                void* da, void* db, DType t) {
  for_pointwise(
      at.n, at.packets,
      [&](int64_t i) {
        const Packet of_dy = load_packet(dy, t, i);
        float v[2][kPacket], slope[kPacket], result[kPacket];
        load_packets(at, t, i, v);
        widen(of_dy, t, slope);
        if (da) {
#pragma unroll
          for (int j = 0; j < kPacket; ++j) result[j] = slope[j] * op.da(v[0][j], v[1][j]);
          store_packet(da, t, i, narrow(result, t));
        }
        if (db) {
#pragma unroll
          for (int j = 0; j < kPacket; ++j) result[j] = slope[j] * op.db(v[0][j], v[1][j]);
          store_packet(db, t, i, narrow(result, t));
        }
      },
      [&](int64_t i) {
        const Offsets<2> offsets = offsets_of(at, i);
        const float a = load_float(at.data[0], t, offsets.of[0]);
        const float b = load_float(at.data[1], t, offsets.of[1]);
        const float slope = load_float(dy, t, i);
        if (da) store_float(da, t, i, slope * op.da(a, b));
        if (db) store_float(db, t, i, slope * op.db(a, b));
      });
}

void run_integers(const Binary& k, const Operands<2>& at) {
  scalar::visit_binary(k.op, [&](auto op) {
    if constexpr (decltype(op)::integers)
      launch(binary_integers<decltype(op)>, pointwise_launch(at.n, 0, k.stream), op, at, k.y,
             k.dtype);
    else
      fail("pointwise: this op has no ", k.dtype, " form");
  });
}

}  // namespace

void run(Cuda, const Binary& k) {
  const Operands<2> at = operands_of<2>(k.rank, k.shape, {&k.a, &k.b}, k.y);
  if (k.dtype == i32 || k.dtype == i64) return run_integers(k, at);
  require_packet_dtype("pointwise", k.dtype);
  scalar::visit_binary(k.op, [&](auto op) {
    launch(binary<decltype(op)>, pointwise_launch(at.n, at.packets, k.stream), op, at, k.y,
           k.dtype);
  });
}

void run(Cuda, const BinaryBackward& k) {
  require_packet_dtype("pointwise backward", k.dtype);
  const Operands<2> at = operands_of<2>(k.rank, k.shape, {&k.a, &k.b}, k.dy, k.da, k.db);
  scalar::visit_binary(k.op, [&](auto op) {
    launch(binary_backward<decltype(op)>, pointwise_launch(at.n, at.packets, k.stream), op, at,
           k.dy, k.da, k.db, k.dtype);
  });
}

}  // namespace olm::kernels
