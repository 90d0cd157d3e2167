// Elementary functions on Highway vectors, total: NaN stays NaN and infinities go where they
// should. f32 is accurate to a few units in the last place; f64 goes lane by lane through the
// standard library. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_MATH_INL_H_
#undef OLM_KERNELS_CPU_MATH_INL_H_
#else
#define OLM_KERNELS_CPU_MATH_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
using if_f32 = std::enable_if_t<sizeof(hn::TFromD<D>) == 4, int>;
template <class D>
using if_f64 = std::enable_if_t<sizeof(hn::TFromD<D>) == 8, int>;

/// Applies a scalar function to every lane.
template <class D, class F>
HWY_INLINE hn::Vec<D> by_lane(D d, hn::Vec<D> v, F&& f) {
  HWY_ALIGN hn::TFromD<D> lanes[HWY_MAX_BYTES / sizeof(hn::TFromD<D>)];
  hn::Store(v, d, lanes);
  for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = f(lanes[i]);
  return hn::Load(d, lanes);
}

/// `result` where x is a number, x itself where it is NaN.
template <class D>
HWY_INLINE hn::Vec<D> keep_nan(D, hn::Vec<D> x, hn::Vec<D> result) {
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

/// The larger (smaller) of two; NaN if either is NaN.
template <class D>
HWY_INLINE hn::Vec<D> max_nan(D d, hn::Vec<D> a, hn::Vec<D> b) {
  return keep_nan(d, a, keep_nan(d, b, hn::Max(a, b)));
}
template <class D>
HWY_INLINE hn::Vec<D> min_nan(D d, hn::Vec<D> a, hn::Vec<D> b) {
  return keep_nan(d, a, keep_nan(d, b, hn::Min(a, b)));
}

/// e^x; infinity above 88.7, 0 below -104.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  return keep_nan(d, x, hn::Exp(d, hn::Min(x, hn::Set(d, 104.0f))));
}
template <class D, if_f64<D> = 0>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  return by_lane(d, x, [](double v) { return std::exp(v); });
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
