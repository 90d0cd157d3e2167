// Activations of GEMM's epilogue and their derivatives, on Highway vectors. Included once per
// instruction set.
#if defined(OLM_KERNELS_CPU_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_CPU_ACTIVATION_INL_H_
#undef OLM_KERNELS_CPU_ACTIVATION_INL_H_
#else
#define OLM_KERNELS_CPU_ACTIVATION_INL_H_
#endif

#include <hwy/highway.h>

#include <olm/kernels/gemm.h>
#include <olm/kernels/pointwise-inl.h>

HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The functor of pointwise ops that an activation is.
template <Activation act>
constexpr auto functor_of() {
  if constexpr (act == Activation::relu) return Relu{};
  if constexpr (act == Activation::gelu) return Gelu{};
  if constexpr (act == Activation::gelu_tanh) return GeluTanh{};
  if constexpr (act == Activation::silu) return Silu{};
  if constexpr (act == Activation::sigmoid) return Sigmoid{};
  if constexpr (act == Activation::tanh) return Tanh{};
}

/// act(x), as accurate as results of storage type T ask for.
template <Activation act, class T, class D>
HWY_INLINE hn::Vec<D> activate(D, hn::Vec<D> x) {
  if constexpr (act == Activation::none)
    return x;
  else
    return functor_of<act>().f(LanesOf<D, accuracy_for<T>>(x)).v;
}

/// act'(x).
template <Activation act, class T, class D>
HWY_INLINE hn::Vec<D> activate_gradient(D d, hn::Vec<D> x) {
  if constexpr (act == Activation::none) {
    return hn::Set(d, hn::TFromD<D>(1));
  } else {
    constexpr auto op = functor_of<act>();
    // A derivative written in y may take differences of it that ask for all its digits.
    constexpr Accuracy accuracy = op.kY ? Accuracy::f32 : accuracy_for<T>;
    const LanesOf<D, accuracy> v(x);
    return op.df(v, op.kY ? op.f(v) : v).v;
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
