// Unary ops: eight elements to a thread, read and written 16 bytes at a time, computed in f32; one
// element where memory is not aligned, for the last few, and for integers. One kernel per op, the
// dtype at run time. Traffic: x once, y once.
#include <olm/kernels/pointwise-inl.h>
#include <olm/kernels/cuda/pointwise/operands.cuh>

namespace olm::kernels {
namespace {

template <class Op>
__global__ void unary(Op op, const void* x, void* y, DType t, int64_t n, int64_t packets) {
  for_pointwise(
      n, packets,
      [&](int64_t i) {
        float v[kPacket];
        widen(load_packet(x, t, i), t, v);
#pragma unroll
        for (int j = 0; j < kPacket; ++j) v[j] = op.f(v[j]);
        store_packet(y, t, i, narrow(v, t));
      },
      [&](int64_t i) { store_float(y, t, i, op.f(load_float(x, t, i))); });
}

template <class Op>
__global__ void unary_integers(Op op, const void* x, void* y, DType t, int64_t n) {
  for (int64_t i = global_thread(); i < n; i += global_threads()) {
    if (t == i32)
      out<int32_t>(y)[i] = op.f(in<int32_t>(x)[i]);
    else
      out<int64_t>(y)[i] = op.f(in<int64_t>(x)[i]);
  }
}

void run_integers(const Unary& k) {
  scalar::visit_unary(k.op, k.a, k.b, [&](auto op) {
    if constexpr (decltype(op)::integers)
      launch(unary_integers<decltype(op)>, pointwise_launch(k.n, 0, k.stream), op, k.x, k.y,
             k.dtype, k.n);
    else
      fail("pointwise: this op has no ", k.dtype, " form");
  });
}

}  // namespace

void run(Cuda, const Unary& k) {
  if (k.dtype == i32 || k.dtype == i64) return run_integers(k);
  require_packet_dtype("pointwise", k.dtype);
  const int64_t packets = is_aligned(k.x, k.y) ? k.n / kPacket : 0;
  scalar::visit_unary(k.op, k.a, k.b, [&](auto op) {
    launch(unary<decltype(op)>, pointwise_launch(k.n, packets, k.stream), op, k.x, k.y, k.dtype,
           k.n, packets);
  });
}

}  // namespace olm::kernels
