#pragma once
// Contract of what linear_cross_entropy does between its GEMMs.
#include <olm/kernels/cross_entropy.h>

namespace olm::kernels {

/// Losses of a chunk of logits and, where dlogits is given, their gradient times `scale`; see
/// CrossEntropyTerms. With a softcap c > 0 the logits are c · tanh(logits / c), in place.
/// In acc_dtype(dtype): logits [rows, cols] (overwritten), losses [rows], scale [1]. targets:
/// [rows], checked before. dlogits: [rows, cols] of `dtype`; may be logits if of its dtype and
/// stride. Rows of logits and dlogits lie at multiples of their strides, in elements; 0 means
/// tight: cols. What lies between rows is neither read nor written.
struct CrossEntropyChunk {
  static constexpr const char* name = "linear_cross_entropy chunk";
  DType dtype = f32, target_dtype = i64;
  void* losses = nullptr;
  void* dlogits = nullptr;
  void* logits = nullptr;
  const void* targets = nullptr;
  const void* scale = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t logits_stride = 0, dlogits_stride = 0;
  double softcap = 0;
  CrossEntropyTerms terms = {};
  Stream stream = {};
};
OLM_API void run(Cpu, const CrossEntropyChunk&);
OLM_API void run(Cuda, const CrossEntropyChunk&);

/// y = factor · x, or y += that where `accumulate`. y: [n] of `dtype`; x: [n] and factor: [1] in
/// acc_dtype(dtype). y may be x, if of its dtype; a factor of 1 then leaves it untouched.
struct ScaleGradient {
  static constexpr const char* name = "linear_cross_entropy scale";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  const void* factor = nullptr;
  int64_t n = 0;
  bool accumulate = false;
  Stream stream = {};
};
OLM_API void run(Cpu, const ScaleGradient&);
OLM_API void run(Cuda, const ScaleGradient&);

}  // namespace olm::kernels
