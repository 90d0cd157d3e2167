// Derivatives of unary ops in f32 vectors. Traffic: dy and what the derivative needs once, dx once.
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/pointwise/exact.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/pointwise/unary_backward.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/pointwise/chunk-inl.h>
#include <olm/kernels/pointwise-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace {

/// dx = dy · df(x, y); where an op does not read x or y they point to dy.
template <Accuracy accuracy>
void unary_backward_chunk(const UnaryBackward& k, const float* dy, const float* x, const float* y,
                          float* dx, int64_t n) {
  using D = hn::ScalableTag<float>;
  using Number = LanesOf<D, accuracy>;
  const D d;
  visit_unary(k.op, k.a, k.b, [&](auto op) {
    using Op = decltype(op);
    for_vectors(d, n, [&](int64_t i, auto part) {
      const auto xi = Op::kX ? load_chunk<accuracy>(d, x + i, part) : load(d, x + i, part);
      const auto yi = Op::kY ? load_chunk<accuracy>(d, y + i, part) : load(d, y + i, part);
      const Number slope = op.df(Number(xi), Number(yi));
      store(d, (Number(load_chunk<accuracy>(d, dy + i, part)) * slope).v, dx + i, part);
    });
  });
}

template <class T>
void unary_backward_range(const UnaryBackward& k, Needs needs, bool non_temporal, int64_t begin,
                          int64_t end) {
  ChunkBuffer<T> dy_buffer, x_buffer, y_buffer, dx_buffer;
  for (int64_t i = begin; i < end; i += kPointwiseChunk) {
    const int64_t n = std::min(kPointwiseChunk, end - i);
    const float* dy = widen(in<T>(k.dy) + i, n, dy_buffer);
    const float* x = needs.x ? widen(in<T>(k.x) + i, n, x_buffer) : dy;
    const float* y = needs.y ? widen(in<T>(k.y) + i, n, y_buffer) : dy;
    T* dx = out<T>(k.dx) + i;
    float* result = result_at(dx, dx_buffer, non_temporal);
    unary_backward_chunk<accuracy_for<T>>(k, dy, x, y, result, n);
    deliver(result, dx, n, non_temporal);
  }
  store_fence(non_temporal);
}

void unary_backward(const UnaryBackward& k) {
  const Needs needs = unary_needs(k.op);
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.n);
  visit_f32(k.dtype, [&]<class T>() {
    parallel_for(k.n, kPointwiseGrain, [&](int64_t begin, int64_t end) {
      unary_backward_range<T>(k, needs, non_temporal, begin, end);
    });
  });
}

}  // namespace
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(unary_backward);
void run(Cpu, const UnaryBackward& k) {
  if (is_exact(k.dtype)) return run_exact(k);
  HWY_DYNAMIC_DISPATCH(unary_backward)(k);
}
}  // namespace olm::kernels
#endif
