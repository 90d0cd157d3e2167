// Contiguous vector loops: y = a·x + b·y, conversions, search for NaN and infinity.
#include <atomic>

#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/visit.h>
#include <olm/kernels/copy.h>
#include <olm/kernels/cpu/convert.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "olm/kernels/cpu/axpby.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <olm/kernels/cpu/vec-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {

template <class T>
HWY_ATTR void axpby_range(const Axpby& k, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  const auto a = hn::Set(d, A(k.x_scale)), b = hn::Set(d, A(k.y_scale));
  const T* x = in<T>(k.x) + begin;
  T* y = out<T>(k.y) + begin;
  if (k.x_scale == 0) {
    for_vectors(d, end - begin, [&](int64_t i, auto part) HWY_ATTR {
      store(d, hn::Mul(b, load(d, y + i, part)), y + i, part);
    });
    return;
  }
  for_vectors(d, end - begin, [&](int64_t i, auto part) HWY_ATTR {
    const auto scaled = hn::Mul(b, load(d, y + i, part));
    store(d, hn::MulAdd(a, load(d, x + i, part), scaled), y + i, part);
  });
}

HWY_ATTR void axpby(const Axpby& k, int64_t begin, int64_t end) {
  visit_float(k.dtype, [&]<class T>() { axpby_range<T>(k, begin, end); });
}

template <class T>
HWY_ATTR bool any_nonfinite(const T* x, int64_t n) {
  using A = acc_t<T>;
  const hn::ScalableTag<A> d;
  auto sum = hn::Zero(d);  // x·0 is 0 for finite x and NaN otherwise
  for_vectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
    sum = hn::MulAdd(load(d, x + i, part), hn::Zero(d), sum);
  });
  return !hn::AllTrue(d, hn::Eq(sum, hn::Zero(d)));
}

HWY_ATTR bool nonfinite(const FindNonfinite& k, int64_t begin, int64_t end) {
  return visit_float(k.dtype,
                     [&]<class T>() { return any_nonfinite(in<T>(k.x) + begin, end - begin); });
}

HWY_ATTR void f32_to_bf16(const float* x, bfloat16_t* y, int64_t n) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> dh;
  for_vectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
    store(dh, to_bf16_exactly(d, load(d, x + i, part)), reinterpret_cast<uint16_t*>(y) + i, part);
  });
}

HWY_ATTR void bf16_to_f32(const bfloat16_t* x, float* y, int64_t n) {
  const hn::ScalableTag<float> d;
  for_vectors(d, n,
              [&](int64_t i, auto part) HWY_ATTR { store(d, load(d, x + i, part), y + i, part); });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace olm::kernels {
HWY_EXPORT(axpby);
HWY_EXPORT(nonfinite);
HWY_EXPORT(f32_to_bf16);
HWY_EXPORT(bf16_to_f32);

void run(Cpu, const Axpby& k) {
  parallel_for(k.n, 65536, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(axpby)(k, begin, end);
  });
}

void run(Cpu, const FindNonfinite& k) {
  std::atomic<bool> found = false;
  parallel_for(k.n, 65536, [&](int64_t begin, int64_t end) {
    if (HWY_DYNAMIC_DISPATCH(nonfinite)(k, begin, end)) found = true;
  });
  *k.found = found ? 1 : 0;
}

void to_bf16(const float* x, bfloat16_t* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(f32_to_bf16)(x, y, n);
}
void to_f32(const bfloat16_t* x, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(bf16_to_f32)(x, y, n);
}

}  // namespace olm::kernels
#endif
