// A Highway vector that reads like a number, so that formulas written once serve vectors and
// scalars. Included once per instruction set.
#if defined(OLM_KERNELS_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_LANES_INL_H_
#undef OLM_KERNELS_CPU_LANES_INL_H_
#else
#define OLM_KERNELS_CPU_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <olm/kernels/cpu/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The lanes of one vector, with the operators of a number, and functions of that accuracy.
template <class D, Accuracy accuracy>
struct LanesOf {
  using M = hn::Mask<D>;
  hn::Vec<D> v;

  HWY_INLINE explicit LanesOf(hn::Vec<D> vector) : v(vector) {}
  HWY_INLINE explicit LanesOf(double value) : v(hn::Set(D(), hn::TFromD<D>(value))) {}

  friend HWY_INLINE LanesOf operator+(LanesOf a, LanesOf b) { return LanesOf(hn::Add(a.v, b.v)); }
  friend HWY_INLINE LanesOf operator-(LanesOf a, LanesOf b) { return LanesOf(hn::Sub(a.v, b.v)); }
  friend HWY_INLINE LanesOf operator*(LanesOf a, LanesOf b) { return LanesOf(hn::Mul(a.v, b.v)); }
  friend HWY_INLINE LanesOf operator/(LanesOf a, LanesOf b) { return LanesOf(hn::Div(a.v, b.v)); }
  friend HWY_INLINE LanesOf operator-(LanesOf a) { return LanesOf(hn::Neg(a.v)); }
  friend HWY_INLINE M operator>(LanesOf a, LanesOf b) { return hn::Gt(a.v, b.v); }
  friend HWY_INLINE M operator<(LanesOf a, LanesOf b) { return hn::Lt(a.v, b.v); }
  friend HWY_INLINE M operator>=(LanesOf a, LanesOf b) { return hn::Ge(a.v, b.v); }
  friend HWY_INLINE M operator<=(LanesOf a, LanesOf b) { return hn::Le(a.v, b.v); }
  friend HWY_INLINE M operator==(LanesOf a, LanesOf b) { return hn::Eq(a.v, b.v); }

  friend HWY_INLINE LanesOf select(M mask, LanesOf yes, LanesOf no) {
    return LanesOf(hn::IfThenElse(mask, yes.v, no.v));
  }
  /// The smaller of x and a number, the larger of x and 0; NaN stays.
  friend HWY_INLINE LanesOf at_most(LanesOf x, double most) {
    return LanesOf(hn::Min(LanesOf(most).v, x.v));
  }
  friend HWY_INLINE LanesOf positive_part(LanesOf x) {
    return LanesOf(hn::Max(hn::Zero(D()), x.v));
  }
  friend HWY_INLINE LanesOf abs(LanesOf x) { return LanesOf(hn::Abs(x.v)); }
  friend HWY_INLINE LanesOf sqrt(LanesOf x) { return LanesOf(hn::Sqrt(x.v)); }
  friend HWY_INLINE LanesOf exp(LanesOf x) { return LanesOf(exp<accuracy>(D(), x.v)); }
  friend HWY_INLINE LanesOf exp_of_negative(LanesOf x) {
    return LanesOf(exp_of_negative<accuracy>(D(), x.v));
  }
  friend HWY_INLINE LanesOf logistic(LanesOf x) { return LanesOf(logistic<accuracy>(D(), x.v)); }
  friend HWY_INLINE LanesOf normal_tail(LanesOf t, LanesOf gauss) {
    return LanesOf(normal_tail<accuracy>(D(), t.v, gauss.v));
  }
  friend HWY_INLINE LanesOf log(LanesOf x) { return LanesOf(log(D(), x.v)); }
  friend HWY_INLINE LanesOf log1p(LanesOf x) { return LanesOf(log1p(D(), x.v)); }
  friend HWY_INLINE LanesOf expm1(LanesOf x) { return LanesOf(expm1(D(), x.v)); }
  friend HWY_INLINE LanesOf tanh(LanesOf x) { return LanesOf(tanh(D(), x.v)); }
  friend HWY_INLINE LanesOf sin(LanesOf x) { return LanesOf(sin(D(), x.v)); }
  friend HWY_INLINE LanesOf cos(LanesOf x) { return LanesOf(cos(D(), x.v)); }
  friend HWY_INLINE LanesOf erf(LanesOf x) { return LanesOf(erf(D(), x.v)); }
  friend HWY_INLINE LanesOf pow(LanesOf x, LanesOf p) { return LanesOf(pow(D(), x.v, p.v)); }
};
using Lanes = LanesOf<hn::ScalableTag<float>, Accuracy::f32>;

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
