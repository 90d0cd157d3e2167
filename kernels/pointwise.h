#pragma once
// Contracts of pointwise ops: one element of the result depends on one element of each operand.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// Functions of one number; `a` and `b` are the parameters named here. Formulas with derivatives:
/// pointwise-inl.h. Those up to `rsub` also take i32 and i64.
enum class UnaryOp : uint8_t {
  neg,
  abs,
  sign,
  square,
  relu,
  clamp,       ///< to [a, b]
  add_scalar,  ///< x + a
  mul_scalar,  ///< x · a
  rsub,        ///< a - x
  div_scalar,  ///< x / a
  rdiv,        ///< a / x
  pow_scalar,  ///< x^a
  exp,
  log,
  log1p,
  sqrt,
  rsqrt,
  reciprocal,
  sin,
  cos,
  tanh,
  erf,
  sigmoid,
  relu_squared,
  leaky_relu,  ///< slope a below 0
  elu,         ///< a = alpha
  selu,
  gelu,
  gelu_tanh,
  silu,
  mish,
  softplus,  ///< a = beta, b = threshold
};

/// y[i] = f(x[i]). x, y: [n] contiguous, of `dtype`; y may be x. bf16 and f16 are computed in f32,
/// for bf16 to an accuracy of 2^-12, and what lies below 1.2e-38 may become 0.
struct Unary {
  static constexpr const char* name = "pointwise unary";
  UnaryOp op = UnaryOp::neg;
  DType dtype = f32;
  const void* x = nullptr;
  void* y = nullptr;
  int64_t n = 0;
  double a = 0, b = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const Unary&);
OLM_API void run(Cuda, const Unary&);

/// dx[i] = dy[i] · f'(x[i]). All [n] contiguous, of a float `dtype`. x or y may be null where
/// unary_needs() says that the derivative is written without it; dx may be dy.
struct UnaryBackward {
  static constexpr const char* name = "pointwise unary backward";
  UnaryOp op = UnaryOp::neg;
  DType dtype = f32;
  const void* dy = nullptr;
  const void* x = nullptr;
  const void* y = nullptr;
  void* dx = nullptr;
  int64_t n = 0;
  double a = 0, b = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const UnaryBackward&);
OLM_API void run(Cuda, const UnaryBackward&);

/// What the derivative of an op is written in.
struct Needs {
  bool x = false, y = false;
};
OLM_API Needs unary_needs(UnaryOp op);

/// An operand read through strides in elements, one per dimension of the result; 0 repeats it.
struct Strided {
  const void* data = nullptr;
  int64_t strides[8] = {};
};

enum class BinaryOp : uint8_t { add, sub, mul, div, pow, maximum, minimum };

/// y = f(a, b) over `shape`, y contiguous; all of `dtype`. y may be an operand that is contiguous.
/// i32 and i64 have add, sub, mul, maximum, minimum. maximum and minimum propagate NaN.
struct Binary {
  static constexpr const char* name = "pointwise binary";
  BinaryOp op = BinaryOp::add;
  DType dtype = f32;
  Strided a = {}, b = {};
  void* y = nullptr;
  int rank = 0;
  int64_t shape[8] = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const Binary&);
OLM_API void run(Cuda, const Binary&);

/// da = dy · ∂f/∂a and db = dy · ∂f/∂b over `shape`, of a float `dtype`; dy, da, db contiguous. A
/// null da or db is skipped. Where a = b the gradient of maximum and minimum goes half to each.
struct BinaryBackward {
  static constexpr const char* name = "pointwise binary backward";
  BinaryOp op = BinaryOp::add;
  DType dtype = f32;
  const void* dy = nullptr;
  Strided a = {}, b = {};
  void* da = nullptr;
  void* db = nullptr;
  int rank = 0;
  int64_t shape[8] = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const BinaryBackward&);
OLM_API void run(Cuda, const BinaryBackward&);

/// The logical ops treat every nonzero element as true.
enum class CompareOp : uint8_t { eq, ne, lt, le, gt, ge, logical_and, logical_or };

/// y = f(a, b), boolean, contiguous over `shape`; a and b of any one `dtype`.
struct Compare {
  static constexpr const char* name = "pointwise compare";
  CompareOp op = CompareOp::eq;
  DType dtype = f32;
  Strided a = {}, b = {};
  void* y = nullptr;
  int rank = 0;
  int64_t shape[8] = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const Compare&);
OLM_API void run(Cuda, const Compare&);

/// y = condition ? a : b, contiguous over `shape`; a, b, y of any one `dtype`, condition boolean.
struct Where {
  static constexpr const char* name = "pointwise where";
  DType dtype = f32;
  Strided condition = {}, a = {}, b = {};
  void* y = nullptr;
  int rank = 0;
  int64_t shape[8] = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const Where&);
OLM_API void run(Cuda, const Where&);

}  // namespace olm::kernels
