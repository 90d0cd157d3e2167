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

/// The lanes of one f32 vector, with the operators and functions of a number.
struct Lanes {
  using D = hn::ScalableTag<float>;
  using M = hn::Mask<D>;
  hn::Vec<D> v;

  HWY_INLINE explicit Lanes(hn::Vec<D> vector) : v(vector) {}
  HWY_INLINE explicit Lanes(double value) : v(hn::Set(D(), float(value))) {}

  friend HWY_INLINE Lanes operator+(Lanes a, Lanes b) { return Lanes(hn::Add(a.v, b.v)); }
  friend HWY_INLINE Lanes operator-(Lanes a, Lanes b) { return Lanes(hn::Sub(a.v, b.v)); }
  friend HWY_INLINE Lanes operator*(Lanes a, Lanes b) { return Lanes(hn::Mul(a.v, b.v)); }
  friend HWY_INLINE Lanes operator/(Lanes a, Lanes b) { return Lanes(hn::Div(a.v, b.v)); }
  friend HWY_INLINE Lanes operator-(Lanes a) { return Lanes(hn::Neg(a.v)); }
  friend HWY_INLINE M operator>(Lanes a, Lanes b) { return hn::Gt(a.v, b.v); }
  friend HWY_INLINE M operator<(Lanes a, Lanes b) { return hn::Lt(a.v, b.v); }
  friend HWY_INLINE M operator>=(Lanes a, Lanes b) { return hn::Ge(a.v, b.v); }
  friend HWY_INLINE M operator<=(Lanes a, Lanes b) { return hn::Le(a.v, b.v); }
  friend HWY_INLINE M operator==(Lanes a, Lanes b) { return hn::Eq(a.v, b.v); }
};

HWY_INLINE Lanes select(Lanes::M mask, Lanes yes, Lanes no) {
  return Lanes(hn::IfThenElse(mask, yes.v, no.v));
}
HWY_INLINE Lanes abs(Lanes x) { return Lanes(hn::Abs(x.v)); }
HWY_INLINE Lanes sqrt(Lanes x) { return Lanes(hn::Sqrt(x.v)); }
HWY_INLINE Lanes exp(Lanes x) { return Lanes(exp(Lanes::D(), x.v)); }
HWY_INLINE Lanes log(Lanes x) { return Lanes(log(Lanes::D(), x.v)); }
HWY_INLINE Lanes log1p(Lanes x) { return Lanes(log1p(Lanes::D(), x.v)); }
HWY_INLINE Lanes expm1(Lanes x) { return Lanes(expm1(Lanes::D(), x.v)); }
HWY_INLINE Lanes tanh(Lanes x) { return Lanes(tanh(Lanes::D(), x.v)); }
HWY_INLINE Lanes sin(Lanes x) { return Lanes(sin(Lanes::D(), x.v)); }
HWY_INLINE Lanes cos(Lanes x) { return Lanes(cos(Lanes::D(), x.v)); }
HWY_INLINE Lanes erf(Lanes x) { return Lanes(erf(Lanes::D(), x.v)); }
HWY_INLINE Lanes pow(Lanes x, Lanes p) { return Lanes(pow(Lanes::D(), x.v, p.v)); }
HWY_INLINE Lanes normal_cdf(Lanes x, Lanes gauss) {
  return Lanes(normal_cdf(Lanes::D(), x.v, gauss.v));
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
