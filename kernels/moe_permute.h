#pragma once
// Contract of the kernels that bring tokens into the order of their experts. A pair is a token n
// and one of its top_k choices k, numbered n · top_k + k. Indices outside their range are errors as
// in index.h.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// A stable counting sort of pairs by expert: those of expert e have the sorted rows
/// [offsets[e], offsets[e+1]), in the order of their numbers.
///   rows[i] = pair at sorted row i    positions: the inverse    offsets[num_experts] = pairs
///   experts: [pairs] i32 or i64 in [0, num_experts)    rows, positions: [pairs]    offsets:
///   [num_experts + 1]
struct MoESort {
  static constexpr const char* name = "moe_sort";
  DType index_dtype = i32;
  int32_t *rows = nullptr, *positions = nullptr, *offsets = nullptr;
  const void* experts = nullptr;
  int64_t pairs = 0, num_experts = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const MoESort&);
OLM_API void run(Cuda, const MoESort&);

/// The row of a token for each of its pairs, in sorted order: y[i] = x[rows[i] / top_k].
///   x: [pairs / top_k, cols], y: [pairs, cols], both of `dtype`    rows: [pairs]
/// Its backward is MoECombine without weights.
struct MoEPermute {
  static constexpr const char* name = "moe_permute";
  DType dtype = f32;
  void* y = nullptr;
  const void* x = nullptr;
  const int32_t* rows = nullptr;
  int64_t pairs = 0, top_k = 0, cols = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const MoEPermute&);
OLM_API void run(Cuda, const MoEPermute&);

}  // namespace olm::kernels
