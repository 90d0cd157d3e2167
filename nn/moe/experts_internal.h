#pragma once
// Running the experts of a mixture on rows that are sorted by expert.
#include <olm/nn/moe.h>

namespace olm::nn {

/// An expert dropout(down(act(up(x)))) whose projections are plain ones.
struct ExpertParts {
  const LinearModule *up = nullptr, *down = nullptr;
  Module* act = nullptr;
  double dropout = 0;

  /// True where both can be computed together: one function between projections of the same
  /// shape. A function without parameters serves all rows; one with them has to be the same module.
  bool fits(const ExpertParts& other) const;
};

/// Parts of all experts; none where they cannot be computed together.
std::vector<ExpertParts> common_parts(const Children& experts);

/// The parameters of projections, one of each for a group of rows; no biases where experts have
/// none.
struct ExpertParameters {
  Tensors up, up_bias, down, down_bias;
  static constexpr Tensors ExpertParameters::*kLists[] = {
      &ExpertParameters::up, &ExpertParameters::up_bias, &ExpertParameters::down,
      &ExpertParameters::down_bias};
};
ExpertParameters parameters_of(std::span<const ExpertParts> parts);

/// down(act(up(x))) of rows [R,D] in groups, each with its parameters, as grouped_linear() takes
/// them; dropout is left to the caller.
Tensor run_grouped(Module& act, const ExpertParameters& parameters, const Tensor& x,
                   const Tensor& offsets, Context& ctx);

/// expert_e(rows of e) for rows x [R,D] sorted by expert, `offsets` as moe_sort() gives them:
/// together where all are of one kind that grouped_linear() can compute, else one by one.
Tensor run_experts(const Children& experts, const Tensor& x, const Tensor& offsets, Context& ctx);

}  // namespace olm::nn
