#pragma once
// Contract of the cross-entropy kernels.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// The loss of one row of logits x with target t, over C classes, and what every kernel of this
/// file takes beside them. With lse = log Σ_c e^x[c], smoothing s and z-loss z:
///   loss = (1 - s) · (lse - x[t]) + s · (lse - mean_c x[c]) + z · lse²
/// A row whose target is `ignore_index` has loss 0 and gradient 0. Any other target outside [0, C)
/// is an error that CrossEntropyScale finds (see Stream::fault); where that does not throw at once,
/// the other kernels treat the row as ignored.
struct CrossEntropyTerms {
  int64_t ignore_index = -100;
  double label_smoothing = 0, z_loss = 0;
};

/// scale [1], in acc_dtype(dtype): 1 over the number of targets that are not ignored if `mean` (0
/// if there are none), else 1. Checks the targets: [rows] of `target_dtype` (i32 or i64).
struct CrossEntropyScale {
  static constexpr const char* name = "cross_entropy scale";
  DType dtype = f32, target_dtype = i64;
  void* scale = nullptr;
  const void* targets = nullptr;
  int64_t rows = 0, classes = 0, ignore_index = -100;
  bool mean = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const CrossEntropyScale&);
OLM_API void run(Cuda, const CrossEntropyScale&);

/// total [1] = scale · Σ_r losses[r], summed in f64 in an order fixed by `rows`. All in
/// acc_dtype(dtype).
struct CrossEntropyTotal {
  static constexpr const char* name = "cross_entropy total";
  DType dtype = f32;
  void* total = nullptr;
  const void* losses = nullptr;
  const void* scale = nullptr;
  int64_t rows = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const CrossEntropyTotal&);
OLM_API void run(Cuda, const CrossEntropyTotal&);

/// logits: [rows, cols] contiguous, of `dtype`; targets: [rows], checked before. In acc_dtype:
/// losses, and for backward row_max and row_log_sum = log Σ_c e^(x[c] - row_max), [rows]: lse in
/// two numbers, since large logits leave no digits for the logarithm in their sum.
struct CrossEntropyForward {
  static constexpr const char* name = "cross_entropy forward";
  DType dtype = f32, target_dtype = i64;
  void* losses = nullptr;
  void *row_max = nullptr, *row_log_sum = nullptr;
  const void* logits = nullptr;
  const void* targets = nullptr;
  int64_t rows = 0, cols = 0;
  CrossEntropyTerms terms = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const CrossEntropyForward&);
OLM_API void run(Cuda, const CrossEntropyForward&);

/// With p = e^(x - lse) and 1 at the target in h:
///   dlogits[r,c] = dy[r] · scale · (p[c] · (1 + 2 · z · lse) - (1 - s) · h[c] - s / C)
/// Other than in f64, a p below e^-55 counts as 0, so that the GEMMs that follow meet no
/// subnormal numbers. dlogits: as logits. In acc_dtype: dy [rows], or [1] for all rows if `one_dy`;
/// scale [1] (null: 1).
struct CrossEntropyBackward {
  static constexpr const char* name = "cross_entropy backward";
  DType dtype = f32, target_dtype = i64;
  void* dlogits = nullptr;
  const void* dy = nullptr;
  const void* scale = nullptr;
  const void* logits = nullptr;
  const void *row_max = nullptr, *row_log_sum = nullptr;
  const void* targets = nullptr;
  int64_t rows = 0, cols = 0;
  bool one_dy = false;
  CrossEntropyTerms terms = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const CrossEntropyBackward&);
OLM_API void run(Cuda, const CrossEntropyBackward&);

}  // namespace olm::kernels
