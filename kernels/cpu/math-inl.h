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

#include <bit>
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

/// x in [low, high]; NaN stays: x86 takes the second operand where either is NaN, others take NaN.
template <class D>
HWY_INLINE hn::Vec<D> clamp(D d, hn::Vec<D> x, float low, float high) {
  return hn::Max(hn::Set(d, low), hn::Min(hn::Set(d, high), x));
}

/// Σ c[i]·x^i, the highest power first: vectors that follow each other hide the wait.
template <size_t count, class D>
HWY_INLINE hn::Vec<D> polynomial(D d, hn::Vec<D> x, const float (&c)[count]) {
  auto sum = hn::Set(d, c[count - 1]);
  for (size_t i = count - 1; i-- > 0;) sum = hn::MulAdd(sum, x, hn::Set(d, c[i]));
  return sum;
}

/// v · 2^n for whole n in [-252, 254], rounded once.
template <class D>
HWY_INLINE hn::Vec<D> scale_by_power(D d, hn::Vec<D> v, hn::Vec<D> n) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 16) return hn::Vec<D>{_mm512_scalef_ps(v.raw, n.raw)};
#endif
  const hn::RebindToSigned<D> di;
  const auto whole = hn::ConvertTo(di, n), half = hn::ShiftRight<1>(whole);
  const auto power = [&](auto e) HWY_ATTR {
    return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(e, hn::Set(di, 127))));
  };
  return hn::Mul(hn::Mul(v, power(half)), power(hn::Sub(whole, half)));
}

/// e^x for x in [-104, 104] or NaN: 2^n · e^r with |r| <= ln 2 / 2; adding 1.5 · 2^23 rounds to n.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp_inside(D d, hn::Vec<D> x) {
  const auto magic = hn::Set(d, 12582912.0f);
  const auto n = hn::Sub(hn::MulAdd(x, hn::Set(d, 1.44269504f), magic), magic);
  const auto high = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), x);
  const auto r = hn::NegMulAdd(n, hn::Set(d, 1.428606765330187e-6f), high);
  static constexpr float kPowers[] = {1.0f,
                                      1.0f,
                                      0.4999999403953552f,
                                      0.1666651964187622f,
                                      0.04166839271783829f,
                                      0.008368780836462975f,
                                      0.0013814467238262296f};
  return scale_by_power(d, polynomial(d, r, kPowers), n);
}

/// e^x; infinity above 88.7, 0 below -104.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  return exp_inside(d, clamp(d, x, -104.0f, 104.0f));
}
template <class D, if_f64<D> = 0>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  return by_lane(d, x, [](double v) { return std::exp(v); });
}

/// e^x where x >= least, else 0: keeps results too small to matter from becoming subnormal numbers,
/// on which arithmetic is two orders slower. f64 is exp.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp_above(D d, hn::Vec<D> x, float least) {
  const auto inside = exp_inside(d, clamp(d, x, least, 104.0f));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, least)), inside);
}
template <class D, if_f64<D> = 0>
HWY_INLINE hn::Vec<D> exp_above(D d, hn::Vec<D> x, double) {
  return exp(d, x);
}
/// The least x for which e^x is a normal f32.
inline constexpr float kLeastNormalExp = -87.0f;

/// ln x; -infinity at 0, NaN below.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> log(D d, hn::Vec<D> x) {
  const auto inf = hn::Inf(d), zero = hn::Zero(d);
  const auto special = hn::IfThenElse(hn::Eq(x, zero), hn::Neg(inf),
                                      hn::IfThenElse(hn::Eq(x, inf), inf, hn::NaN(d)));
  const auto usual = hn::And(hn::Gt(x, zero), hn::Lt(x, inf));
  return hn::IfThenElse(usual, hn::Log(d, x), special);
}

/// ln(1 + x), accurate near 0.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> log1p(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f), y = hn::Add(x, one);
  const auto rounded = hn::Sub(y, one);  // what of x arrived in y
  const auto corrected = hn::Mul(log(d, y), hn::Div(x, rounded));
  const auto tiny = hn::Eq(rounded, hn::Zero(d)), huge = hn::Eq(y, hn::Inf(d));
  return hn::IfThenElse(tiny, x, hn::IfThenElse(huge, y, corrected));
}

/// e^x - 1, accurate near 0.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> expm1(D d, hn::Vec<D> x) {
  return keep_nan(d, x, hn::Expm1(d, hn::Min(x, hn::Set(d, 104.0f))));
}

template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> tanh(D d, hn::Vec<D> x) {
  return keep_nan(d, x, hn::Tanh(d, x));
}

/// Beyond 30000 the argument is reduced lane by lane.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> sin(D d, hn::Vec<D> x) {
  if (HWY_LIKELY(hn::AllTrue(d, hn::Lt(hn::Abs(x), hn::Set(d, 3e4f))))) return hn::Sin(d, x);
  return by_lane(d, x, [](float v) { return std::sin(v); });
}
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> cos(D d, hn::Vec<D> x) {
  if (HWY_LIKELY(hn::AllTrue(d, hn::Lt(hn::Abs(x), hn::Set(d, 3e4f))))) return hn::Cos(d, x);
  return by_lane(d, x, [](float v) { return std::cos(v); });
}

/// x^p, lane by lane.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> pow(D d, hn::Vec<D> x, hn::Vec<D> p) {
  HWY_ALIGN float base[HWY_MAX_BYTES / 4], power[HWY_MAX_BYTES / 4];
  hn::Store(x, d, base);
  hn::Store(p, d, power);
  for (size_t i = 0; i < hn::Lanes(d); ++i) base[i] = std::pow(base[i], power[i]);
  return hn::Load(d, base);
}

/// erfc(t) / e^(-t²) for t >= 0: a polynomial in k = 1 / (1 + 0.3 t), relative error 2e-8.
template <class D>
HWY_INLINE hn::Vec<D> scaled_erfc(D d, hn::Vec<D> t) {
  const auto one = hn::Set(d, 1.0f);
  const auto k = hn::Div(one, hn::MulAdd(t, hn::Set(d, 0.3f), one));
  static constexpr float kPowers[] = {
      0.1691874415662721f,  0.1707234129173325f,  0.14828866695859425f,
      0.21509917123278083f, -0.0950118595235688f, 0.5481902691316402f,
      -0.5126519197226577f, 0.48572935735368294f, -0.12955455954928247f};
  return hn::Mul(k, polynomial(d, k, kPowers));
}

/// The error function: an odd polynomial below 1, 1 - erfc above.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> erf(D d, hn::Vec<D> x) {
  const auto t = hn::Abs(x), square = hn::Mul(x, x), one = hn::Set(d, 1.0f);
  static constexpr float kOdd[] = {
      1.1283791657266917f,   -0.37612625824096296f,   0.11283585147057193f,  -0.026853811870079833f,
      0.005188327561726958f, -0.0008010192535203943f, 7.853857752705127e-05f};
  const auto odd = polynomial(d, square, kOdd);
  const auto erfc = hn::Mul(exp(d, hn::Neg(square)), scaled_erfc(d, t));
  const auto far = hn::CopySign(hn::Sub(one, erfc), x);
  return keep_nan(d, x, hn::IfThenElse(hn::Lt(t, one), hn::Mul(x, odd), far));
}

/// Φ(x) = (1 + erf(x / √2)) / 2, accurate in the lower tail too, given e^(-x²/2).
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> normal_cdf(D d, hn::Vec<D> x, hn::Vec<D> gauss) {
  const auto half = hn::Set(d, 0.5f), t = hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678f));
  const auto tail = hn::Mul(half, hn::Mul(gauss, scaled_erfc(d, t)));
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
