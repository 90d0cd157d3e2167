// Unary ops in f32 vectors, a chunk at a time so that each formula is compiled once per instruction
// set and accuracy, whatever the storage type. Traffic: x once, y once. Work is handed out by
// ranges of elements.
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/cpu/pointwise/exact.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/pointwise/unary.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/pointwise/chunk-inl.h>
#include <olm/kernels/pointwise-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace {

template <Accuracy accuracy>
void unary_chunk(const Unary& k, const float* x, float* y, int64_t n) {
  using D = hn::ScalableTag<float>;
  using Number = LanesOf<D, accuracy>;
  const D d;
  visit_unary(k.op, k.a, k.b, [&](auto op) {
    for_vectors(d, n, [&](int64_t i, auto part) {
      store(d, op.f(Number(load_chunk<accuracy>(d, x + i, part))).v, y + i, part);
    });
  });
}

template <class T>
void unary_range(const Unary& k, bool non_temporal, int64_t begin, int64_t end) {
  ChunkBuffer<T> x_buffer, y_buffer;
  for (int64_t i = begin; i < end; i += kPointwiseChunk) {
    const int64_t n = std::min(kPointwiseChunk, end - i);
    T* y = out<T>(k.y) + i;
    float* result = result_at(y, y_buffer, non_temporal);
    unary_chunk<accuracy_for<T>>(k, widen(in<T>(k.x) + i, n, x_buffer), result, n);
    deliver(result, y, n, non_temporal);
  }
  store_fence(non_temporal);
}

void unary(const Unary& k) {
  const bool non_temporal = uses_non_temporal_stores(k.dtype, k.n);
  visit_f32(k.dtype, [&]<class T>() {
    parallel_for(k.n, kPointwiseGrain,
                 [&](int64_t begin, int64_t end) { unary_range<T>(k, non_temporal, begin, end); });
  });
}

}  // namespace
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(unary);
void run(Cpu, const Unary& k) {
  if (is_exact(k.dtype)) return run_exact(k);
  HWY_DYNAMIC_DISPATCH(unary)(k);
}
}  // namespace olm::kernels
#endif
