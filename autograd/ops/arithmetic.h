#pragma once
#include <olm/autograd/tape.h>

namespace olm {

// Arithmetic of two tensors whose shapes broadcast to one another, or of a tensor and a number. The
// result has the broadcast shape and the operands' dtype. Throws where shapes do not broadcast and
// where dtypes or devices differ: cast() is explicit. i32 and i64 have all but div and pow.

OLM_API Tensor add(const Tensor& a, const Tensor& b);
OLM_API Tensor sub(const Tensor& a, const Tensor& b);
OLM_API Tensor mul(const Tensor& a, const Tensor& b);
OLM_API Tensor div(const Tensor& a, const Tensor& b);
/// a^b; where a is 0 the gradient of b is 0.
OLM_API Tensor pow(const Tensor& a, const Tensor& b);
/// The larger of two, NaN where either is NaN; where they are equal each gets half the gradient.
OLM_API Tensor maximum(const Tensor& a, const Tensor& b);
/// The smaller of two, likewise.
OLM_API Tensor minimum(const Tensor& a, const Tensor& b);

OLM_API Tensor add(const Tensor& a, double b);
OLM_API Tensor sub(const Tensor& a, double b);
OLM_API Tensor sub(double a, const Tensor& b);
OLM_API Tensor mul(const Tensor& a, double b);
OLM_API Tensor div(const Tensor& a, double b);
OLM_API Tensor div(double a, const Tensor& b);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator+(const Tensor& a, double b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, double b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, double b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, double b) { return div(a, b); }
inline Tensor operator+(double a, const Tensor& b) { return add(b, a); }
inline Tensor operator-(double a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(double a, const Tensor& b) { return mul(b, a); }
inline Tensor operator/(double a, const Tensor& b) { return div(a, b); }
OLM_API Tensor operator-(const Tensor& x);

}  // namespace olm
