#pragma once
// Rows of tokens in the order of their experts.
#include <olm/autograd/tape.h>

namespace olm {

/// Pairs of a token n and one of its K choices k, numbered n · K + k, in the order of the expert
/// chosen. Made by moe_sort(); i32, without gradients.
struct MoEPermutation {
  Tensor rows;       ///< [N·K] sorted row -> pair
  Tensor positions;  ///< [..., K] pair -> sorted row, in the shape of the experts
  Tensor offsets;    ///< [E+1] expert e has the sorted rows [offsets[e], offsets[e+1])
};

/// Sorts pairs by expert; those of one expert keep their order.
///   experts: [..., K] i32 or i64 in [0, num_experts), as moe_route() chooses them
/// Throws for an expert out of range.
OLM_API MoEPermutation moe_sort(const Tensor& experts, int64_t num_experts);

/// A row for each pair, in the order of experts: y[i] = x[rows[i] / K].
///   x: [..., D]    y: [N·K, D]
/// In backward each token sums its K rows in the order of k, in acc_dtype.
OLM_API Tensor moe_permute(const Tensor& x, const MoEPermutation& permutation);

}  // namespace olm
