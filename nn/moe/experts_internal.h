#pragma once
// Running the experts of a mixture on rows that are sorted by expert.
#include <olm/nn/moe.h>

namespace olm::nn {

/// expert_e(rows of e) for rows x [R,D] sorted by expert, `offsets` as moe_sort() gives them:
/// together where all are of one kind that grouped_linear() can compute, else one by one.
Tensor run_experts(const Children& experts, const Tensor& x, const Tensor& offsets, Context& ctx);

}  // namespace olm::nn
