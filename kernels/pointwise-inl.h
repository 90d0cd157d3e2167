// The maths of pointwise ops: functors with f(x) and df(x, y), where y = f(x), generic over the
// value type V: a scalar here and on CUDA, a vector in a Highway target. V(c) makes a constant.
// Included once per Highway target, or once without Highway.
#if defined(OLM_KERNELS_POINTWISE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OLM_KERNELS_POINTWISE_INL_H_
#undef OLM_KERNELS_POINTWISE_INL_H_
#else
#define OLM_KERNELS_POINTWISE_INL_H_
#endif

#include <olm/kernels/pointwise.h>

#include <cmath>

#if defined(HWY_NAMESPACE)
#include <olm/kernels/cpu/lanes-inl.h>
HWY_BEFORE_NAMESPACE();
namespace olm::kernels::HWY_NAMESPACE {
#else
namespace olm::kernels::scalar {
// What std:: has no name for, on scalars.
using std::abs, std::cos, std::erf, std::exp, std::expm1, std::log, std::log1p, std::pow, std::sin,
    std::sqrt, std::tanh;
template <class V>
OLM_HD V select(bool condition, V yes, V no) {
  return condition ? yes : no;
}
/// The smaller of x and a number, the larger of x and 0; NaN stays.
template <class V>
OLM_HD V at_most(V x, double most) {
  return x > V(most) ? V(most) : x;
}
template <class V>
OLM_HD V positive_part(V x) {
  return x < V(0) ? V(0) : x;
}
template <class V>
OLM_HD V exp_of_negative(V x) {
  return std::exp(x);
}
template <class V>
OLM_HD V logistic(V x) {
  return V(1) / (V(1) + std::exp(-x));
}
/// Φ(-t), the normal distribution's tail. Others than scalars want e^(-t²/2).
template <class V>
OLM_HD V normal_tail(V t, V) {
  return V(0.5) * std::erfc(t * V(0.70710678118654752));
}
#endif

// clang-format off
// `integers` marks ops that i32 and i64 have; kX and kY say what df reads.
struct Real {
  static constexpr bool integers = false, kX = true, kY = false;
};
struct RealOfY : Real {
  static constexpr bool kX = false, kY = true;
};
struct Any : Real {
  static constexpr bool integers = true;
};
struct AnyConstant : Any {
  static constexpr bool kX = false;
};

template <class V> OLM_HD V sign_of(V x) {
  return select(x > V(0), V(1), select(x < V(0), V(-1), x));  // NaN and zero stay
}

struct Neg : AnyConstant {
  template <class V> OLM_HD V f(V x) const { return -x; }
  template <class V> OLM_HD V df(V, V) const { return V(-1); }
};
struct Abs : Any {
  template <class V> OLM_HD V f(V x) const { return abs(x); }
  template <class V> OLM_HD V df(V x, V) const { return sign_of(x); }
};
struct Sign : AnyConstant {
  template <class V> OLM_HD V f(V x) const { return sign_of(x); }
  template <class V> OLM_HD V df(V, V) const { return V(0); }
};
struct Square : Any {
  template <class V> OLM_HD V f(V x) const { return x * x; }
  template <class V> OLM_HD V df(V x, V) const { return x + x; }
};
struct Relu : Any {
  static constexpr bool kX = false, kY = true;
  template <class V> OLM_HD V f(V x) const { return select(x < V(0), V(0), x); }
  template <class V> OLM_HD V df(V, V y) const { return select(y > V(0), V(1), V(0)); }
};
struct Clamp : Any {
  double low, high;
  template <class V> OLM_HD V f(V x) const {
    const V raised = select(x < V(low), V(low), x);
    return select(raised > V(high), V(high), raised);
  }
  template <class V> OLM_HD V df(V x, V) const {
    return select(x >= V(low), select(x <= V(high), V(1), V(0)), V(0));
  }
};
struct AddScalar : AnyConstant {
  double a;
  template <class V> OLM_HD V f(V x) const { return x + V(a); }
  template <class V> OLM_HD V df(V, V) const { return V(1); }
};
struct MulScalar : AnyConstant {
  double a;
  template <class V> OLM_HD V f(V x) const { return x * V(a); }
  template <class V> OLM_HD V df(V, V) const { return V(a); }
};
struct RSub : AnyConstant {
  double a;
  template <class V> OLM_HD V f(V x) const { return V(a) - x; }
  template <class V> OLM_HD V df(V, V) const { return V(-1); }
};
struct DivScalar : Real {
  static constexpr bool kX = false;
  double a;
  template <class V> OLM_HD V f(V x) const { return x / V(a); }
  template <class V> OLM_HD V df(V, V) const { return V(1) / V(a); }
};
struct RDiv : Real {
  double a;
  template <class V> OLM_HD V f(V x) const { return V(a) / x; }
  template <class V> OLM_HD V df(V x, V) const { return -(V(a) / x) / x; }
};
struct PowScalar : Real {
  double a;
  template <class V> OLM_HD V f(V x) const { return pow(x, V(a)); }
  template <class V> OLM_HD V df(V x, V) const { return a == 0 ? V(0) : V(a) * pow(x, V(a - 1)); }
};
struct Exp : RealOfY {
  template <class V> OLM_HD V f(V x) const { return exp(x); }
  template <class V> OLM_HD V df(V, V y) const { return y; }
};
struct Log : Real {
  template <class V> OLM_HD V f(V x) const { return log(x); }
  template <class V> OLM_HD V df(V x, V) const { return V(1) / x; }
};
struct Log1p : Real {
  template <class V> OLM_HD V f(V x) const { return log1p(x); }
  template <class V> OLM_HD V df(V x, V) const { return V(1) / (V(1) + x); }
};
struct Sqrt : RealOfY {
  template <class V> OLM_HD V f(V x) const { return sqrt(x); }
  template <class V> OLM_HD V df(V, V y) const { return V(0.5) / y; }
};
struct RSqrt : Real {
  template <class V> OLM_HD V f(V x) const { return V(1) / sqrt(x); }
  template <class V> OLM_HD V df(V x, V) const { return V(-0.5) / (x * sqrt(x)); }
};
struct Reciprocal : RealOfY {
  template <class V> OLM_HD V f(V x) const { return V(1) / x; }
  template <class V> OLM_HD V df(V, V y) const { return -(y * y); }
};
struct Sin : Real {
  template <class V> OLM_HD V f(V x) const { return sin(x); }
  template <class V> OLM_HD V df(V x, V) const { return cos(x); }
};
struct Cos : Real {
  template <class V> OLM_HD V f(V x) const { return cos(x); }
  template <class V> OLM_HD V df(V x, V) const { return -sin(x); }
};
struct Tanh : RealOfY {
  template <class V> OLM_HD V f(V x) const { return tanh(x); }
  template <class V> OLM_HD V df(V, V y) const { return V(1) - y * y; }
};
struct Erf : Real {
  template <class V> OLM_HD V f(V x) const { return erf(x); }
  template <class V> OLM_HD V df(V x, V) const { return V(1.1283791670955126) * exp(-(x * x)); }
};
struct Sigmoid : RealOfY {
  template <class V> OLM_HD V f(V x) const { return logistic(x); }
  template <class V> OLM_HD V df(V, V y) const { return y * (V(1) - y); }
};
struct ReluSquared : Real {
  template <class V> OLM_HD V f(V x) const { const V p = Relu().f(x); return p * p; }
  template <class V> OLM_HD V df(V x, V) const { const V p = Relu().f(x); return p + p; }
};
struct LeakyRelu : Real {
  double slope;
  template <class V> OLM_HD V f(V x) const { return select(x > V(0), x, V(slope) * x); }
  template <class V> OLM_HD V df(V x, V) const { return select(x > V(0), V(1), V(slope)); }
};
struct Elu : Real {
  double alpha;
  template <class V> OLM_HD V f(V x) const { return select(x > V(0), x, V(alpha) * expm1(x)); }
  template <class V> OLM_HD V df(V x, V) const { return select(x > V(0), V(1), V(alpha) * exp(x)); }
};
/// Klambauer et al. 2017, arXiv:1706.02515.
struct Selu : Real {
  static constexpr double kScale = 1.0507009873554805, kAlpha = 1.6732632423543772;
  template <class V> OLM_HD V f(V x) const {
    return V(kScale) * select(x > V(0), x, V(kAlpha) * expm1(x));
  }
  template <class V> OLM_HD V df(V x, V) const {
    return V(kScale) * select(x > V(0), V(1), V(kAlpha) * exp(x));
  }
};
/// x · Φ(x), written with |x| and the tail Φ(-|x|), so that nothing cancels far below 0.
/// Hendrycks & Gimpel 2016, arXiv:1606.08415.
struct Gelu : Real {
  static constexpr double kFar = 40;  // there the tail is 0
  template <class V> OLM_HD V f(V x) const {
    const V t = at_most(abs(x), kFar);
    return positive_part(x) - t * normal_tail(t, exp_of_negative(V(-0.5) * t * t));
  }
  template <class V> OLM_HD V df(V x, V) const {
    const V t = at_most(abs(x), kFar), gauss = exp_of_negative(V(-0.5) * t * t);
    const V bulge = V(0.3989422804014327) * t * gauss - normal_tail(t, gauss);
    return select(x < V(0), -bulge, V(1) + bulge);
  }
};
/// x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, written with the logistic function.
struct GeluTanh : Real {
  static constexpr double kScale = 2 * 0.7978845608028654;
  template <class V> OLM_HD static V gate(V x) {
    return logistic(V(kScale) * x * (V(1) + V(0.044715) * x * x));
  }
  template <class V> OLM_HD V f(V x) const { return x * gate(x); }
  template <class V> OLM_HD V df(V x, V) const {
    const V s = gate(x), slope = V(kScale) * (V(1) + V(3 * 0.044715) * x * x);
    return select(abs(x) > V(10), s, s + x * slope * (s * (V(1) - s)));
  }
};
struct Silu : Real {
  template <class V> OLM_HD V f(V x) const { return x * logistic(x); }
  template <class V> OLM_HD V df(V x, V) const {
    const V s = logistic(x);
    return s * (V(1) + x * (V(1) - s));
  }
};
/// x · tanh(ln(1 + eˣ)). With n = e²ˣ + 2eˣ the tanh is n / (n + 2); it is 1 above 20. Misra 2019,
/// arXiv:1908.08681.
struct Mish : Real {
  template <class V> OLM_HD static V n(V x) {
    const V e = exp(select(x > V(20), V(20), x));
    return e * (e + V(2));
  }
  template <class V> OLM_HD V f(V x) const { const V m = n(x); return x * (m / (m + V(2))); }
  template <class V> OLM_HD V df(V x, V) const {
    const V m = n(x), sum = m + V(2);
    const V inner = m / sum + x * logistic(x) * (V(4) * (m + V(1)) / (sum * sum));
    return select(x > V(20), V(1), inner);
  }
};
/// ln(1 + e^(βx)) / β, and x itself where βx > threshold.
struct Softplus : Real {
  double beta, threshold;
  template <class V> OLM_HD V f(V x) const {
    const V z = V(beta) * x, positive = Relu().f(z);
    return select(z > V(threshold), x, (positive + log1p(exp(-abs(z)))) / V(beta));
  }
  template <class V> OLM_HD V df(V x, V) const {
    const V z = V(beta) * x;
    return select(z > V(threshold), V(1), logistic(z));
  }
};

/// Calls visitor(functor) for an op and its parameters: the list of unary ops.
template <class Visitor>
decltype(auto) visit_unary(UnaryOp op, double a, double b, Visitor&& visitor) {
  switch (op) {
    case UnaryOp::neg: return visitor(Neg{});
    case UnaryOp::abs: return visitor(Abs{});
    case UnaryOp::sign: return visitor(Sign{});
    case UnaryOp::square: return visitor(Square{});
    case UnaryOp::relu: return visitor(Relu{});
    case UnaryOp::clamp: return visitor(Clamp{{}, a, b});
    case UnaryOp::add_scalar: return visitor(AddScalar{{}, a});
    case UnaryOp::mul_scalar: return visitor(MulScalar{{}, a});
    case UnaryOp::rsub: return visitor(RSub{{}, a});
    case UnaryOp::div_scalar: return visitor(DivScalar{{}, a});
    case UnaryOp::rdiv: return visitor(RDiv{{}, a});
    case UnaryOp::pow_scalar: return visitor(PowScalar{{}, a});
    case UnaryOp::exp: return visitor(Exp{});
    case UnaryOp::log: return visitor(Log{});
    case UnaryOp::log1p: return visitor(Log1p{});
    case UnaryOp::sqrt: return visitor(Sqrt{});
    case UnaryOp::rsqrt: return visitor(RSqrt{});
    case UnaryOp::reciprocal: return visitor(Reciprocal{});
    case UnaryOp::sin: return visitor(Sin{});
    case UnaryOp::cos: return visitor(Cos{});
    case UnaryOp::tanh: return visitor(Tanh{});
    case UnaryOp::erf: return visitor(Erf{});
    case UnaryOp::sigmoid: return visitor(Sigmoid{});
    case UnaryOp::relu_squared: return visitor(ReluSquared{});
    case UnaryOp::leaky_relu: return visitor(LeakyRelu{{}, a});
    case UnaryOp::elu: return visitor(Elu{{}, a});
    case UnaryOp::selu: return visitor(Selu{});
    case UnaryOp::gelu: return visitor(Gelu{});
    case UnaryOp::gelu_tanh: return visitor(GeluTanh{});
    case UnaryOp::silu: return visitor(Silu{});
    case UnaryOp::mish: return visitor(Mish{});
    case UnaryOp::softplus: return visitor(Softplus{{}, a, b});
  }
  fail("pointwise: there is no unary op number ", int(op));
}

// Functions of two numbers: f(a, b) and its two partial derivatives.
struct Add {
  static constexpr bool integers = true;
  template <class V> OLM_HD V f(V a, V b) const { return a + b; }
  template <class V> OLM_HD V da(V, V) const { return V(1); }
  template <class V> OLM_HD V db(V, V) const { return V(1); }
};
struct Sub {
  static constexpr bool integers = true;
  template <class V> OLM_HD V f(V a, V b) const { return a - b; }
  template <class V> OLM_HD V da(V, V) const { return V(1); }
  template <class V> OLM_HD V db(V, V) const { return V(-1); }
};
struct Mul {
  static constexpr bool integers = true;
  template <class V> OLM_HD V f(V a, V b) const { return a * b; }
  template <class V> OLM_HD V da(V, V b) const { return b; }
  template <class V> OLM_HD V db(V a, V) const { return a; }
};
struct Div {
  static constexpr bool integers = false;
  template <class V> OLM_HD V f(V a, V b) const { return a / b; }
  template <class V> OLM_HD V da(V, V b) const { return V(1) / b; }
  template <class V> OLM_HD V db(V a, V b) const { return -(a / b) / b; }
};
struct Pow {
  static constexpr bool integers = false;
  template <class V> OLM_HD V f(V a, V b) const { return pow(a, b); }
  template <class V> OLM_HD V da(V a, V b) const {
    return select(b == V(0), V(0), b * pow(a, b - V(1)));
  }
  template <class V> OLM_HD V db(V a, V b) const {
    const V slope = pow(a, b) * log(a);
    return select(a == V(0), select(b >= V(0), V(0), slope), slope);
  }
};
struct Maximum {
  static constexpr bool integers = true;
  template <class V> OLM_HD V f(V a, V b) const {
    return select(a > b, a, select(b >= a, b, a + b));  // the sum is NaN if either is
  }
  template <class V> OLM_HD V da(V a, V b) const {
    return select(a > b, V(1), select(a == b, V(0.5), V(0)));
  }
  template <class V> OLM_HD V db(V a, V b) const { return da(b, a); }
};
struct Minimum {
  static constexpr bool integers = true;
  template <class V> OLM_HD V f(V a, V b) const {
    return select(a < b, a, select(b <= a, b, a + b));
  }
  template <class V> OLM_HD V da(V a, V b) const { return Maximum().da(b, a); }
  template <class V> OLM_HD V db(V a, V b) const { return Maximum().da(a, b); }
};

// clang-format on
/// Calls visitor(functor) for an op: the list of binary ops.
template <class Visitor>
decltype(auto) visit_binary(BinaryOp op, Visitor&& visitor) {
  switch (op) {
    case BinaryOp::add:
      return visitor(Add{});
    case BinaryOp::sub:
      return visitor(Sub{});
    case BinaryOp::mul:
      return visitor(Mul{});
    case BinaryOp::div:
      return visitor(Div{});
    case BinaryOp::pow:
      return visitor(Pow{});
    case BinaryOp::maximum:
      return visitor(Maximum{});
    case BinaryOp::minimum:
      return visitor(Minimum{});
  }
  fail("pointwise: there is no binary op number ", int(op));
}

#if defined(HWY_NAMESPACE)
}  // namespace olm::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#else
}  // namespace olm::kernels::scalar
#endif

#endif  // per-target include guard
