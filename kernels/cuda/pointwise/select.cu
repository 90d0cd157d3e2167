// Comparisons and where, split as binary.cu: eight elements to a thread where the operands lie in
// rows or are repeated along them. Traffic: each operand once, the result once.
#include <olm/kernels/cuda/pointwise/operands.cuh>
#include <olm/kernels/cuda/row.cuh>

namespace olm::kernels {
namespace {

/// Calls visitor(test) for an op.
template <class Visitor>
__device__ inline void visit_compare(CompareOp op, Visitor&& visitor) {
  switch (op) {
    case CompareOp::eq:
      return visitor([](auto u, auto v) { return u == v; });
    case CompareOp::ne:
      return visitor([](auto u, auto v) { return u != v; });
    case CompareOp::lt:
      return visitor([](auto u, auto v) { return u < v; });
    case CompareOp::le:
      return visitor([](auto u, auto v) { return u <= v; });
    case CompareOp::gt:
      return visitor([](auto u, auto v) { return u > v; });
    case CompareOp::ge:
      return visitor([](auto u, auto v) { return u >= v; });
    case CompareOp::logical_and:
      return visitor([](auto u, auto v) { return u != 0 && v != 0; });
    case CompareOp::logical_or:
      return visitor([](auto u, auto v) { return u != 0 || v != 0; });
  }
}

__global__ void compare_floats(CompareOp op, const __grid_constant__ Operands<2> at, bool* y,
                               DType t) {
  for_pointwise(
      at.n, at.packets,
      [&](int64_t i) {
        float v[2][kPacket];
        load_packets(at, t, i, v);
        Vec<bool, kPacket> result;
        visit_compare(op, [&](auto test) {
#pragma unroll
          for (int j = 0; j < kPacket; ++j) result.v[j] = test(v[0][j], v[1][j]);
        });
        store_vec(y + i, result);
      },
      [&](int64_t i) {
        const Offsets<2> offsets = offsets_of(at, i);
        const float a = load_float(at.data[0], t, offsets.of[0]);
        const float b = load_float(at.data[1], t, offsets.of[1]);
        visit_compare(op, [&](auto test) { y[i] = test(a, b); });
      });
}

__device__ inline int64_t load_integer(const void* x, DType t, int64_t i) {
  if (t == i32) return in<int32_t>(x)[i];
  if (t == i64) return in<int64_t>(x)[i];
  return in<bool>(x)[i];
}

__global__ void compare_integers(CompareOp op, const __grid_constant__ Operands<2> at, bool* y,
                                 DType t) {
  for (int64_t i = global_thread(); i < at.n; i += global_threads()) {
    const Offsets<2> offsets = offsets_of(at, i);
    const int64_t a = load_integer(at.data[0], t, offsets.of[0]);
    const int64_t b = load_integer(at.data[1], t, offsets.of[1]);
    visit_compare(op, [&](auto test) { y[i] = test(a, b); });
  }
}

/// Elements i to i + 7 of memory, or element i eight times where the stride is 0.
template <class Bits>
__device__ inline void load_operand(Bits (&v)[kPacket], const void* x, int64_t i, int64_t stride) {
  if (stride != 0) return load_part(v, in<Bits>(x) + i, true, kPacket);
  const Bits one = in<Bits>(x)[i];
#pragma unroll
  for (int j = 0; j < kPacket; ++j) v[j] = one;
}

/// Operands: condition, a, b. Elements are moved, not computed with.
template <class Bits>
__global__ void where(const __grid_constant__ Operands<3> at, Bits* y) {
  for_pointwise(
      at.n, at.packets,
      [&](int64_t i) {
        const Offsets<3> offsets = offsets_of(at, i);
        uint8_t c[kPacket];
        Bits a[kPacket], b[kPacket];
        load_operand(c, at.data[0], offsets.of[0], last_stride(at, 0));
        load_operand(a, at.data[1], offsets.of[1], last_stride(at, 1));
        load_operand(b, at.data[2], offsets.of[2], last_stride(at, 2));
#pragma unroll
        for (int j = 0; j < kPacket; ++j) a[j] = c[j] ? a[j] : b[j];
        store_part(y + i, a, true, kPacket);
      },
      [&](int64_t i) {
        const Offsets<3> offsets = offsets_of(at, i);
        const bool c = in<bool>(at.data[0])[offsets.of[0]];
        y[i] = c ? in<Bits>(at.data[1])[offsets.of[1]] : in<Bits>(at.data[2])[offsets.of[2]];
      });
}

}  // namespace

void run(Cuda, const Compare& k) {
  const Operands<2> at = operands_of<2>(k.rank, k.shape, {&k.a, &k.b}, k.y);
  if (k.dtype == i32 || k.dtype == i64 || k.dtype == boolean)
    return launch(compare_integers, pointwise_launch(at.n, 0, k.stream), k.op, at, out<bool>(k.y),
                  k.dtype);
  require_packet_dtype("pointwise compare", k.dtype);
  launch(compare_floats, pointwise_launch(at.n, at.packets, k.stream), k.op, at, out<bool>(k.y),
         k.dtype);
}

void run(Cuda, const Where& k) {
  require(k.dtype != f64, "pointwise where: cuda has no f64");
  const Operands<3> at = operands_of<3>(k.rank, k.shape, {&k.condition, &k.a, &k.b}, k.y);
  visit_word(size_of(k.dtype), [&]<class Bits>() {
    launch(where<Bits>, pointwise_launch(at.n, at.packets, k.stream), at, out<Bits>(k.y));
  });
}

}  // namespace olm::kernels
