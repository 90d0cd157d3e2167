// Derivatives of unary ops, split as unary.cu. Traffic: dy and what the derivative needs once, dx
// once.
#include <olm/kernels/pointwise-inl.h>
#include <olm/kernels/cuda/pointwise/operands.cuh>

namespace olm::kernels {
namespace {

/// dx = dy · df(x, y); where an op does not read x or y it is given dy.
template <class Op>
__global__ void unary_backward(Op op, const void* dy, const void* x, const void* y, void* dx,
                               DType t, int64_t n, int64_t packets) {
  for_pointwise(
      n, packets,
      [&](int64_t i) {
        const Packet of_dy = load_packet(dy, t, i);
        const Packet of_x = Op::kX ? load_packet(x, t, i) : of_dy;
        const Packet of_y = Op::kY ? load_packet(y, t, i) : of_dy;
        float v[kPacket], xs[kPacket], ys[kPacket];
        widen(of_dy, t, v);
        widen(of_x, t, xs);
        widen(of_y, t, ys);
#pragma unroll
        for (int j = 0; j < kPacket; ++j) v[j] *= op.df(xs[j], ys[j]);
        store_packet(dx, t, i, narrow(v, t));
      },
      [&](int64_t i) {
        const float slope = load_float(dy, t, i);
        const float xi = Op::kX ? load_float(x, t, i) : slope;
        const float yi = Op::kY ? load_float(y, t, i) : slope;
        store_float(dx, t, i, slope * op.df(xi, yi));
      });
}

}  // namespace

void run(Cuda, const UnaryBackward& k) {
  require_packet_dtype("pointwise backward", k.dtype);
  scalar::visit_unary(k.op, k.a, k.b, [&](auto op) {
    using Op = decltype(op);
    const void *x = Op::kX ? k.x : nullptr, *y = Op::kY ? k.y : nullptr;
    const int64_t packets = is_aligned(k.dy, x, y, k.dx) ? k.n / kPacket : 0;
    launch(unary_backward<Op>, pointwise_launch(k.n, packets, k.stream), op, k.dy, x, y, k.dx,
           k.dtype, k.n, packets);
  });
}

}  // namespace olm::kernels
