// Chunks of bf16 and f16 as f32 and back; f32 stays where it is. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_POINTWISE_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_POINTWISE_CHUNK_INL_H_
#undef OLM_KERNELS_CPU_POINTWISE_CHUNK_INL_H_
#else
#define OLM_KERNELS_CPU_POINTWISE_CHUNK_INL_H_
#endif

#include <olm/kernels/cpu/math-inl.h>
#include <olm/kernels/cpu/non_temporal.h>
#include <olm/kernels/cpu/pointwise/operand.h>
#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Room for a chunk in storage type and in f32.
template <class T>
struct ChunkBuffer {
  HWY_ALIGN float wide[kPointwiseChunk];
  HWY_ALIGN T narrow[kPointwiseChunk];
};

/// n elements of x as f32.
template <class T>
HWY_INLINE const float* widen(const T* x, int64_t n, ChunkBuffer<T>& buffer) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    const hn::ScalableTag<float> d;
    for_vectors(d, n, [&](int64_t i, auto part) {
      store(d, load_and_prefetch(d, x + i, part), buffer.wide + i, part);
    });
    return buffer.wide;
  }
}
/// load() of a chunk for long arithmetic: what is not f32 lies in a buffer, and widen() prefetched
/// it.
template <Accuracy accuracy, class D, class Part>
HWY_INLINE hn::Vec<D> load_chunk(D d, const float* p, Part part) {
  return accuracy == Accuracy::f32 ? load_and_prefetch(d, p, part) : load(d, p, part);
}
template <class T>
HWY_INLINE const float* fetch_wide(const Operand<T>& x, int64_t begin, int64_t n,
                                   ChunkBuffer<T>& buffer) {
  return widen(x.fetch(begin, n, buffer.narrow), n, buffer);
}

/// Where results that belong at y are computed, and how they get there: by non-temporal
/// stores if `non_temporal`.
template <class T>
HWY_INLINE float* result_at(T* y, ChunkBuffer<T>& buffer, bool non_temporal) {
  if constexpr (std::is_same_v<T, float>)
    return non_temporal ? buffer.wide : y;
  else
    return buffer.wide;
}
template <class T>
HWY_INLINE void deliver(const float* from, T* y, int64_t n, bool non_temporal) {
  if (std::is_same_v<T, float> && !non_temporal) return;
  const hn::ScalableTag<float> d;
  for_stores(d, y, n, non_temporal,
             [&](int64_t i, auto part) { store(d, load(d, from + i, part), y + i, part); });
}

/// Calls f.operator()<T>() for the dtypes that are computed in f32.
template <class F>
HWY_INLINE void visit_f32(DType t, F&& f) {
  if (t == f32) return f.template operator()<float>();
  if (t == bf16) return f.template operator()<bfloat16_t>();
  if (t == f16) return f.template operator()<float16_t>();
  fail("pointwise: there is no float op on ", t);
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
