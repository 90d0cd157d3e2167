#pragma once
// Contracts of reductions over one axis.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// logsumexp is ln Σ exp(x), computed around the maximum. argmax and argmin give the first index of
/// the extreme; a NaN counts as the extreme, as it does in max and min.
enum class ReduceOp : uint8_t { sum, mean, max, min, logsumexp, argmax, argmin };

/// Reduces the middle axis: y[o, i] = op over r of x[o, r, i].
/// x: [outer, reduced, inner] contiguous, of `dtype`. y: [outer, inner], of `dtype`; i64 for argmax
/// and argmin. Floats are accumulated in acc_dtype by a tree that depends on the shape alone. i32
/// and i64 have sum (which wraps), max, min, argmax and argmin. Over an empty axis sum is 0, mean
/// is NaN and logsumexp is -inf; the others need reduced > 0.
struct Reduce {
  static constexpr const char* name = "reduce";
  ReduceOp op = ReduceOp::sum;
  DType dtype = f32;
  const void* x = nullptr;
  void* y = nullptr;
  int64_t outer = 1, reduced = 1, inner = 1;
  Stream stream = {};
};
OLM_API void run(Cpu, const Reduce&);
OLM_API void run(Cuda, const Reduce&);

/// Variance over the middle axis in two passes, of a float `dtype`:
///   mean[o, i] = Σ_r x[o, r, i] / reduced
///   y[o, i] = Σ_r (x[o, r, i] - mean[o, i])² / (reduced - correction)
/// x: [outer, reduced, inner] contiguous; y: [outer, inner]; mean: [outer, inner] in acc_dtype.
struct Variance {
  static constexpr const char* name = "variance";
  DType dtype = f32;
  const void* x = nullptr;
  void* y = nullptr;
  void* mean = nullptr;
  int64_t outer = 1, reduced = 1, inner = 1;
  double correction = 1;
  Stream stream = {};
};
OLM_API void run(Cpu, const Variance&);
OLM_API void run(Cuda, const Variance&);

}  // namespace olm::kernels
