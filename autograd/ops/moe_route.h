#pragma once
// Which experts of a mixture take a token.
#include <string>

#include <olm/autograd/tape.h>
#include <olm/kernels/moe_route.h>

namespace olm {

using kernels::kMoEScorings;
using kernels::MoEScoring;
/// The scoring called `name`, as name_of() prints it. Throws naming `where` and the known ones.
OLM_API MoEScoring parse_moe_scoring(const std::string& name, const std::string& where);

struct MoERouteOptions {
  int64_t top_k = 2;  ///< experts for each token
  MoEScoring scoring = MoEScoring::softmax;
  bool normalize = true;   ///< weights of a token are divided by their sum + epsilon
  double scale = 1;        ///< a factor of all weights
  double epsilon = 1e-20;  ///< keeps weights finite where all scores are 0
  /// Experts form `groups` groups of neighbours, and a token chooses from the `top_groups` best.
  int64_t groups = 1, top_groups = 1;
};

/// What the router of a mixture says about tokens.
struct MoERouting {
  Tensor experts;  ///< [..., K] i32, by descending score + bias
  Tensor weights;  ///< [..., K] in acc_dtype, of each chosen expert
  Tensor scores;   ///< [..., E] in acc_dtype, without bias: for balance losses
};

/// The `top_k` experts of the largest score + bias for each token, and their weights:
///   scores = softmax(logits) over all experts, or sigmoid(logits)
///   weights[k] = scale · s_k / (Σ_j s_j + epsilon), s_k = scores[experts[k]]   (`normalize`)
///   weights[k] = scale · s_k                                                   (otherwise)
/// Of equal experts the one of the lower index comes first. A group's value is the sum of its two
/// largest score + bias. Gradients reach the logits through weights and scores, not through the
/// choice. NaN is larger than every number, as in topk(): experts are always in range and differ
/// from each other, and weights are NaN where a NaN takes part.
///   logits: [..., E]    bias: [E] in acc_dtype(logits) or undefined, added for the choice alone;
///   it gets no gradient
/// Throws where K is not in [1, E], where groups do not divide E, or where the best groups have
/// fewer than K experts. Shazeer et al. 2017, arXiv:1701.06538; bias and groups: DeepSeek-V3,
/// arXiv:2412.19437.
OLM_API MoERouting moe_route(const Tensor& logits, const MoERouteOptions& options = {},
                             const Tensor& bias = {});

}  // namespace olm
