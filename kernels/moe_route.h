#pragma once
// Contract of the router of a mixture of experts.
#include <olm/kernels/base/devices.h>

namespace olm::kernels {

/// How logits become scores: over all experts together, or each by itself.
enum class MoEScoring : uint8_t { softmax, sigmoid };
inline constexpr MoEScoring kMoEScorings[] = {MoEScoring::softmax, MoEScoring::sigmoid};
/// Prints `softmax`.
OLM_API const char* name_of(MoEScoring scoring);

/// For each token the `top_k` experts of the largest score + bias, and their weights:
///   scores[n] = softmax(logits[n]) or sigmoid(logits[n])
///   experts[n, k]: descending score + bias; of equal ones the lower index comes first
///   weights[n, k] = scale · s_k / (Σ_j s_j + epsilon) where `normalize`, else scale · s_k,
///                   with s_k = scores[n, experts[n, k]], without the bias
/// Where top_groups < groups the experts form `groups` groups of neighbours, and only those of the
/// `top_groups` best groups are chosen from; a group's value is the sum of its two largest
/// score + bias (DeepSeek-V3, arXiv:2412.19437). NaN is larger than every number and equal to
/// itself, so indices lie in [0, experts) and differ from each other whatever the logits are.
///   logits: [tokens, num_experts] of `dtype`    bias: [num_experts] in acc_dtype, or null
///   experts: [tokens, top_k] i32    weights: [tokens, top_k], scores: [tokens, num_experts], both
///   in acc_dtype
/// top_k <= num_experts / groups · top_groups; `groups` divides num_experts.
struct MoERoute {
  static constexpr const char* name = "moe_route";
  DType dtype = f32;
  int32_t* experts = nullptr;
  void *weights = nullptr, *scores = nullptr;
  const void *logits = nullptr, *bias = nullptr;
  int64_t tokens = 0, num_experts = 0, top_k = 0;
  int64_t groups = 1, top_groups = 1;
  MoEScoring scoring = MoEScoring::softmax;
  bool normalize = true;
  double scale = 1, epsilon = 0;
  Stream stream = {};
};
/// Throws where there are not so many experts to choose from.
void check(const MoERoute&);
OLM_API void run(Cpu, const MoERoute&);
OLM_API void run(Cuda, const MoERoute&);

/// The gradient of the logits from those of weights and scores; the choice has none.
///   dlogits: [tokens, num_experts] of `dtype`    dweights, dscores: as weights and scores above;
///   either may be null
struct MoERouteBackward {
  static constexpr const char* name = "moe_route backward";
  DType dtype = f32;
  void* dlogits = nullptr;
  const void *dweights = nullptr, *dscores = nullptr;
  const void* scores = nullptr;
  const int32_t* experts = nullptr;
  int64_t tokens = 0, num_experts = 0, top_k = 0;
  MoEScoring scoring = MoEScoring::softmax;
  bool normalize = true;
  double scale = 1, epsilon = 0;
  Stream stream = {};
};
OLM_API void run(Cpu, const MoERouteBackward&);
OLM_API void run(Cuda, const MoERouteBackward&);

}  // namespace olm::kernels
