// Activations of GEMM's epilogue and their derivatives, on Highway vectors. Included once per
// instruction set.
#if defined(OLM_KERNELS_CPU_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_ACTIVATION_INL_H_
#undef OLM_KERNELS_CPU_ACTIVATION_INL_H_
#else
#define OLM_KERNELS_CPU_ACTIVATION_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>

#include <olm/kernels/cpu/math-inl.h>
#include <olm/kernels/gemm.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

namespace activation {

template <class D>
HWY_INLINE hn::Vec<D> logistic(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, hn::TFromD<D>(1));
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

/// Φ(x), given e^(-x²/2). f64 asks the standard library.
template <class D>
HWY_INLINE hn::Vec<D> cdf(D d, hn::Vec<D> x, hn::Vec<D> gauss) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) return normal_cdf(d, x, gauss);
  return by_lane(d, x,
                 [](auto v) { return decltype(v)(0.5 * std::erfc(-v * 0.70710678118654752)); });
}
template <class D>
HWY_INLINE hn::Vec<D> gauss(D d, hn::Vec<D> x) {
  return exp(d, hn::Mul(hn::Set(d, hn::TFromD<D>(-0.5)), hn::Mul(x, x)));
}

/// The argument u of gelu_tanh: x · σ(u) with u = √(8/π) (x + 0.044715 x³), and du/dx.
template <class D>
HWY_INLINE void gelu_argument(D d, hn::Vec<D> x, hn::Vec<D>& u, hn::Vec<D>& du) {
  using A = hn::TFromD<D>;
  const A scale = A(1.5957691216057307118);
  const auto square = hn::Mul(x, x);
  const auto cubic = hn::Set(d, A(scale * A(0.044715)));
  u = hn::Mul(x, hn::MulAdd(cubic, square, hn::Set(d, scale)));
  du = hn::MulAdd(hn::Mul(hn::Set(d, A(3)), cubic), square, hn::Set(d, scale));
}

}  // namespace activation

/// act(x).
template <Activation Act, class D>
HWY_INLINE hn::Vec<D> activate(D d, hn::Vec<D> x) {
  if constexpr (Act == Activation::relu) {
    return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
  } else if constexpr (Act == Activation::gelu) {
    return hn::Mul(x, activation::cdf(d, x, activation::gauss(d, x)));
  } else if constexpr (Act == Activation::gelu_tanh) {
    hn::Vec<D> u, du;
    activation::gelu_argument(d, x, u, du);
    return hn::Mul(x, activation::logistic(d, u));
  } else if constexpr (Act == Activation::silu) {
    return hn::Mul(x, activation::logistic(d, x));
  } else if constexpr (Act == Activation::sigmoid) {
    return activation::logistic(d, x);
  } else if constexpr (Act == Activation::tanh) {
    return hn::IfThenElse(hn::IsNaN(x), x, hn::Tanh(d, x));
  } else {
    return x;
  }
}

/// act'(x).
template <Activation Act, class D>
HWY_INLINE hn::Vec<D> activate_gradient(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, hn::TFromD<D>(1));
  if constexpr (Act == Activation::relu) {
    return hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), one);
  } else if constexpr (Act == Activation::gelu) {
    const auto gauss = activation::gauss(d, x);
    const auto density = hn::Mul(gauss, hn::Set(d, hn::TFromD<D>(0.3989422804014326779)));
    return hn::MulAdd(x, density, activation::cdf(d, x, gauss));
  } else if constexpr (Act == Activation::gelu_tanh) {
    hn::Vec<D> u, du;
    activation::gelu_argument(d, x, u, du);
    const auto s = activation::logistic(d, u);
    const auto far = hn::Gt(hn::Abs(x), hn::Set(d, hn::TFromD<D>(10)));  // where du may overflow
    return hn::IfThenElse(far, s, hn::MulAdd(hn::Mul(hn::Mul(x, s), hn::Sub(one, s)), du, s));
  } else if constexpr (Act == Activation::silu) {
    const auto s = activation::logistic(d, x);
    return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
  } else if constexpr (Act == Activation::sigmoid) {
    const auto s = activation::logistic(d, x);
    return hn::Mul(s, hn::Sub(one, s));
  } else if constexpr (Act == Activation::tanh) {
    const auto t = activate<Activation::tanh>(d, x);
    return hn::NegMulAdd(t, t, one);
  } else {
    return one;
  }
}

/// Calls f.template operator()<act>() with the activation as a constant.
template <class F>
HWY_INLINE void visit_activation(Activation act, F&& f) {
  switch (act) {
    case Activation::none:
      return f.template operator()<Activation::none>();
    case Activation::relu:
      return f.template operator()<Activation::relu>();
    case Activation::gelu:
      return f.template operator()<Activation::gelu>();
    case Activation::gelu_tanh:
      return f.template operator()<Activation::gelu_tanh>();
    case Activation::silu:
      return f.template operator()<Activation::silu>();
    case Activation::sigmoid:
      return f.template operator()<Activation::sigmoid>();
    case Activation::tanh:
      return f.template operator()<Activation::tanh>();
  }
}

}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
