// Elementary functions on Highway vectors, total: NaN stays NaN and infinities go where they
// should. f32 is accurate to a few units in the last place unless
// less is asked for; f64 goes lane by lane through the
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

#include <olm/kernels/base/types.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
using if_f32 = std::enable_if_t<sizeof(hn::TFromD<D>) == 4, int>;
template <class D>
using if_f64 = std::enable_if_t<sizeof(hn::TFromD<D>) == 8, int>;

/// How accurate a function is: to a few units in the last place of f32, or so that a result which
/// is rounded to bf16 is as good: relative error 2^-12, for half the work or less.
enum class Accuracy : uint8_t { f32, bf16 };
/// What results of storage type T ask for.
template <class T>
inline constexpr Accuracy accuracy_for =
    std::is_same_v<T, bfloat16_t> ? Accuracy::bf16 : Accuracy::f32;

constexpr double kLog2E = 1.4426950408889634074;

/// True for vectors of 512 bits on x86, which have instructions for powers of two, estimates of
/// reciprocals and tables in registers.
template <class D>
inline constexpr bool kIs512 = HWY_ARCH_X86&& HWY_TARGET <= HWY_AVX3 &&
                               sizeof(hn::TFromD<D>) == 4 && hn::MaxLanes(D()) == 16;

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
  if constexpr (kIs512<D>) return hn::Vec<D>{_mm512_scalef_ps(v.raw, n.raw)};
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
  const auto n = hn::Sub(hn::MulAdd(x, hn::Set(d, float(kLog2E)), magic), magic);
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

/// 2^t, relative error 2^-13.7: a polynomial on what t is above a whole number.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> rough_exp2(D d, hn::Vec<D> t) {
  static constexpr float kPowers[] = {0.9999252188f, 0.6958335417f, 0.2260671463f, 0.07802453077f};
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if constexpr (kIs512<D>) {  // both instructions take the largest whole number below t
    const hn::Vec<D> part{_mm512_reduce_ps(t.raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
    return scale_by_power(d, polynomial(d, part, kPowers), t);
  }
#endif
  const auto inside = clamp(d, t, -252.0f, 254.0f), whole = hn::Floor(inside);
  return scale_by_power(d, polynomial(d, hn::Sub(inside, whole), kPowers), whole);
}

/// 2^t for a term of a sum whose largest term is about 1, t <= 0 or so: relative error 1e-7,
/// exactly 1 at 0, exactly 0 below the normal numbers. f64 asks the standard library.
template <class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp2_of_term(D d, hn::Vec<D> t) {
  static constexpr float kPowers[] = {1.0f,          0.693146978f,   0.240222421f,
                                      0.0555073374f, 0.00967151276f, 0.0013264727f};
  const auto least = hn::Set(d, -126.0f), whole = hn::Round(hn::Max(least, t));
  const auto power = scale_by_power(d, polynomial(d, hn::Sub(t, whole), kPowers), whole);
  return hn::IfThenZeroElse(hn::Lt(t, least), power);
}
template <class D, if_f64<D> = 0>
HWY_INLINE hn::Vec<D> exp2_of_term(D d, hn::Vec<D> t) {
  return by_lane(d, t, [](double v) { return std::exp2(v); });
}

/// e^x; infinity above 88.7, 0 below -104.
template <Accuracy accuracy = Accuracy::f32, class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  if constexpr (accuracy == Accuracy::bf16)
    return rough_exp2(d, hn::Mul(x, hn::Set(d, float(kLog2E))));
  else
    return exp_inside(d, clamp(d, x, -104.0f, 104.0f));
}
template <Accuracy accuracy = Accuracy::f32, class D, if_f64<D> = 0>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  return by_lane(d, x, [](double v) { return std::exp(v); });
}

/// e^x for x <= 0.
template <Accuracy accuracy = Accuracy::f32, class D>
HWY_INLINE hn::Vec<D> exp_of_negative(D d, hn::Vec<D> x) {
  if constexpr (accuracy == Accuracy::f32 && sizeof(hn::TFromD<D>) == 4)
    return exp_inside(d, hn::Max(hn::Set(d, -104.0f), x));
  else
    return exp<accuracy>(d, x);
}

/// e^x where x >= least, else 0: keeps results too small to matter from becoming subnormal numbers,
/// on which arithmetic is two orders slower. f64 is exp.
template <Accuracy accuracy = Accuracy::f32, class D, if_f32<D> = 0>
HWY_INLINE hn::Vec<D> exp_above(D d, hn::Vec<D> x, float least) {
  const auto too_small = hn::Lt(x, hn::Set(d, least));
  if constexpr (accuracy == Accuracy::bf16)
    return hn::IfThenZeroElse(too_small, exp<accuracy>(d, x));
  else
    return hn::IfThenZeroElse(too_small, exp_inside(d, clamp(d, x, least, 104.0f)));
}
template <Accuracy accuracy = Accuracy::f32, class D, if_f64<D> = 0>
HWY_INLINE hn::Vec<D> exp_above(D d, hn::Vec<D> x, double) {
  return exp(d, x);
}
/// The least x for which e^x is a normal f32.
inline constexpr float kMinNormalExp = -87.0f;

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

template <class D>
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

/// 1 / x for x >= 1; where that is rough enough, by an instruction that gives 14 bits. f32 divides:
/// division goes on beside other arithmetic.
template <Accuracy accuracy = Accuracy::f32, class D>
HWY_INLINE hn::Vec<D> reciprocal(D d, hn::Vec<D> x) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if constexpr (kIs512<D> && accuracy == Accuracy::bf16) return hn::Vec<D>{_mm512_rcp14_ps(x.raw)};
#endif
  return hn::Div(hn::Set(d, hn::TFromD<D>(1)), x);
}

/// 1 / (1 + e^-x).
template <Accuracy accuracy = Accuracy::f32, class D>
HWY_INLINE hn::Vec<D> logistic(D d, hn::Vec<D> x) {
  const auto power = exp<accuracy>(d, hn::Neg(x));
  return reciprocal<accuracy>(d, hn::Add(hn::Set(d, hn::TFromD<D>(1)), power));
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

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
/// Φ(-t) / e^(-t²/2) for t in [0, 15), relative error 2^-15: a cubic for each of 16 ranges of
/// t + 1, by its exponent and two bits more. Of these bits the table takes the lowest four.
template <class D>
HWY_INLINE hn::Vec<D> rough_mills(D d, hn::Vec<D> t) {
  alignas(64) static constexpr float kPowers[4][16] = {
      {0.476272643f, 0.448744563f, 0.417185896f, 0.385352899f, 0.342372843f, 0.292420923f,
       0.252862656f, 0.221587713f, 0.186850238f, 0.152877126f, 0.129023447f, 0.111459755f,
       0.499998382f, 0.499396852f, 0.496562569f, 0.490546578f},
      {-0.309869781f, -0.254294541f, -0.206598647f, -0.16817033f, -0.126204139f, -0.0882502043f,
       -0.0642962501f, -0.0485522895f, -0.0339361994f, -0.022459246f, -0.0158937797f,
       -0.0118135559f, -0.398738469f, -0.391859581f, -0.374924557f, -0.350826462f},
      {0.112796096f, 0.0752212805f, 0.0511302985f, 0.0356412079f, 0.021951624f, 0.0123144453f,
       0.00747151865f, 0.00482663815f, 0.00277322991f, 0.00147825339f, 0.00087508406f,
       0.000558818392f, 0.245895256f, 0.21856988f, 0.184480984f, 0.152153421f},
      {-0.0176240552f, -0.0091174821f, -0.00505106859f, -0.00296663599f, -0.00147459169f,
       -0.000656900725f, -0.00033000412f, -0.00018173078f, -8.54024495e-5f, -3.66037482e-5f,
       -1.81084531e-5f, -9.92922867e-6f, -0.10569313f, -0.0679321119f, -0.044818379f,
       -0.0302955732f}};
  const __m512i bits = _mm512_castps_si512(hn::Add(t, hn::Set(d, 1.0f)).raw);
  const __m512i range = _mm512_srli_epi32(bits, 21);
  const auto power = [&](int i) HWY_ATTR {
    return hn::Vec<D>{_mm512_permutexvar_ps(range, _mm512_load_ps(kPowers[i]))};
  };
  const auto high = hn::MulAdd(power(3), t, power(2));
  return hn::MulAdd(hn::MulAdd(high, t, power(1)), t, power(0));
}
#endif

/// Φ(-t), the normal distribution's tail, for t in [0, 40], given e^(-t²/2). f64 asks the standard
/// library.
template <Accuracy accuracy = Accuracy::f32, class D>
HWY_INLINE hn::Vec<D> normal_tail(D d, hn::Vec<D> t, hn::Vec<D> gauss) {
  if constexpr (sizeof(hn::TFromD<D>) == 8) {
    return by_lane(d, t, [](double v) { return 0.5 * std::erfc(v * 0.70710678118654752); });
  } else {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
    if constexpr (kIs512<D> && accuracy == Accuracy::bf16)
      return hn::Mul(gauss, rough_mills(d, hn::Min(hn::Set(d, 14.9f), t)));
#endif
    const auto half = hn::Mul(gauss, hn::Set(d, 0.5f));
    return hn::Mul(half, scaled_erfc(d, hn::Mul(t, hn::Set(d, 0.70710678f))));
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
