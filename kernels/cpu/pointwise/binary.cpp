// Binary ops and their derivatives in f32 vectors. Operands come through Operand, which lays what
// is broadcast or strided in a line, a chunk at a time; so there is one loop per op. Traffic: each
// operand once, the result once.
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/pointwise/exact.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/pointwise/binary.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/pointwise/chunk-inl.h>
#include <olm/kernels/pointwise-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace {

void binary_chunk(BinaryOp kind, const float* a, const float* b, float* y, int64_t n) {
  const hn::ScalableTag<float> d;
  visit_binary(kind, [&](auto op) {
    for_vectors(d, n, [&](int64_t i, auto part) {
      store(d, op.f(Lanes(load(d, a + i, part)), Lanes(load(d, b + i, part))).v, y + i, part);
    });
  });
}

/// da or db = dy · slope, where slope(op, a, b) is a partial derivative.
template <class Slope>
HWY_INLINE void slope_chunk(BinaryOp kind, const float* dy, const float* a, const float* b,
                            float* result, int64_t n, Slope&& slope) {
  const hn::ScalableTag<float> d;
  visit_binary(kind, [&](auto op) {
    for_vectors(d, n, [&](int64_t i, auto part) {
      const Lanes s = slope(op, Lanes(load(d, a + i, part)), Lanes(load(d, b + i, part)));
      store(d, (Lanes(load(d, dy + i, part)) * s).v, result + i, part);
    });
  });
}

template <class T>
void binary_ranges(const Binary& k) {
  const Operand<T> a(k.a, k.rank, k.shape), b(k.b, k.rank, k.shape);
  const bool non_temporal = uses_non_temporal_stores(k.dtype, count(k.rank, k.shape));
  parallel_for(count(k.rank, k.shape), kPointwiseGrain, [&](int64_t begin, int64_t end) {
    ChunkBuffer<T> a_buffer, b_buffer, y_buffer;
    for (int64_t i = begin; i < end; i += kPointwiseChunk) {
      const int64_t n = std::min(kPointwiseChunk, end - i);
      T* y = out<T>(k.y) + i;
      float* result = result_at(y, y_buffer, non_temporal);
      binary_chunk(k.op, fetch_wide(a, i, n, a_buffer), fetch_wide(b, i, n, b_buffer), result, n);
      deliver(result, y, n, non_temporal);
    }
    store_fence(non_temporal);
  });
}

template <class T>
void binary_backward_ranges(const BinaryBackward& k) {
  const Operand<T> a_all(k.a, k.rank, k.shape), b_all(k.b, k.rank, k.shape);
  const bool non_temporal = uses_non_temporal_stores(k.dtype, count(k.rank, k.shape));
  parallel_for(count(k.rank, k.shape), kPointwiseGrain, [&](int64_t begin, int64_t end) {
    ChunkBuffer<T> a_buffer, b_buffer, dy_buffer, result_buffer;
    for (int64_t i = begin; i < end; i += kPointwiseChunk) {
      const int64_t n = std::min(kPointwiseChunk, end - i);
      const float* a = fetch_wide(a_all, i, n, a_buffer);
      const float* b = fetch_wide(b_all, i, n, b_buffer);
      const float* dy = widen(in<T>(k.dy) + i, n, dy_buffer);
      if (k.da) {
        float* da = result_at(out<T>(k.da) + i, result_buffer, non_temporal);
        slope_chunk(k.op, dy, a, b, da, n, [](auto op, Lanes u, Lanes v) { return op.da(u, v); });
        deliver(da, out<T>(k.da) + i, n, non_temporal);
      }
      if (k.db) {
        float* db = result_at(out<T>(k.db) + i, result_buffer, non_temporal);
        slope_chunk(k.op, dy, a, b, db, n, [](auto op, Lanes u, Lanes v) { return op.db(u, v); });
        deliver(db, out<T>(k.db) + i, n, non_temporal);
      }
    }
    store_fence(non_temporal);
  });
}

void binary(const Binary& k) {
  visit_f32(k.dtype, [&]<class T>() { binary_ranges<T>(k); });
}
void binary_backward(const BinaryBackward& k) {
  visit_f32(k.dtype, [&]<class T>() { binary_backward_ranges<T>(k); });
}

}  // namespace
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(binary);
HWY_EXPORT(binary_backward);
void run(Cpu, const Binary& k) {
  if (is_exact(k.dtype)) return run_exact(k);
  HWY_DYNAMIC_DISPATCH(binary)(k);
}
void run(Cpu, const BinaryBackward& k) {
  if (is_exact(k.dtype)) return run_exact(k);
  HWY_DYNAMIC_DISPATCH(binary_backward)(k);
}
}  // namespace olm::kernels
#endif
