#pragma once
// What ops check about the order of pairs of token and expert.
#include <olm/autograd/ops/moe_permute.h>
#include <olm/engine/raw.h>

namespace olm {

/// A permutation as kernels take it: contiguous.
struct MoEPairs {
  Tensor rows, positions;
  int64_t tokens = 0, top_k = 0;
};

/// Throws where the permutation is not one of moe_sort() on x's device.
inline MoEPairs checked_permutation(const char* op, const MoEPermutation& p, const Tensor& x) {
  require(p.rows.defined() && p.positions.defined(), op, ": the permutation is not defined");
  require(p.rows.dtype() == i32 && p.positions.dtype() == i32, op,
          ": wanted a permutation in i32, got ", p.rows.dtype(), " and ", p.positions.dtype());
  require(p.positions.rank() >= 1 && p.rows.rank() == 1 && p.rows.numel() == p.positions.numel(),
          op, ": wanted rows [N·K] and positions [...,K], got ", p.rows.shape(), " and ",
          p.positions.shape());
  require_same_device(op, x, p.rows);
  require_same_device(op, x, p.positions);
  return {raw::contiguous(p.rows), raw::contiguous(p.positions), leading_size(p.positions),
          p.positions.size(-1)};
}

}  // namespace olm
