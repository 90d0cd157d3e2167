#pragma once
// The activations of GEMM's epilogue and of gated units in device code: functors with f(x) and
// df(x, y), where y = f(x), made once of the maths of pointwise ops.
#include <cuda_runtime.h>

#include <olm/kernels/gemm.h>
#include <olm/kernels/pointwise-inl.h>

namespace olm::kernels {

/// Activation::none.
struct Identity : scalar::AnyConstant {
  template <class V>
  OLM_HD V f(V x) const {
    return x;
  }
  template <class V>
  OLM_HD V df(V, V) const {
    return V(1);
  }
};

/// Calls visitor(functor) for an activation, on the host.
template <class F>
decltype(auto) visit_activation(Activation activation, F&& visitor) {
  switch (activation) {
    case Activation::none:
      return visitor(Identity{});
    case Activation::relu:
      return visitor(scalar::Relu{});
    case Activation::gelu:
      return visitor(scalar::Gelu{});
    case Activation::gelu_tanh:
      return visitor(scalar::GeluTanh{});
    case Activation::silu:
      return visitor(scalar::Silu{});
    case Activation::sigmoid:
      return visitor(scalar::Sigmoid{});
    case Activation::tanh:
      return visitor(scalar::Tanh{});
  }
  fail("cuda: there is no activation number ", int(activation));
}

/// Calls visitor(functor) for an activation, in a kernel.
template <class Visitor>
__device__ inline void with_activation(Activation activation, Visitor&& visitor) {
  switch (activation) {
    case Activation::none:
      return visitor(Identity{});
    case Activation::relu:
      return visitor(scalar::Relu{});
    case Activation::gelu:
      return visitor(scalar::Gelu{});
    case Activation::gelu_tanh:
      return visitor(scalar::GeluTanh{});
    case Activation::silu:
      return visitor(scalar::Silu{});
    case Activation::sigmoid:
      return visitor(scalar::Sigmoid{});
    case Activation::tanh:
      return visitor(scalar::Tanh{});
  }
}

/// act'(x); y = act(x) is computed only where the derivative is written in it.
template <class Act>
__device__ inline float activation_gradient(Act act, float x) {
  if constexpr (Act::kY)
    return act.df(x, act.f(x));
  else
    return act.df(x, x);
}

}  // namespace olm::kernels
