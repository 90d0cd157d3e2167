#pragma once
// Experts of a mixture over the ranks of a group: each keeps as many, those of rank 0 first.
#include <olm/engine/comm.h>
#include <olm/nn/moe/experts_internal.h>

namespace olm::nn {

struct SpreadExperts {
  dist::Comm group;
  int64_t experts = 0;          ///< of the mixture
  ExpertParameters parameters;  ///< of the experts here
  /// Second handles on them, a set for the rows of each rank, whose gradients so stay apart: that
  /// of source rank s and expert e is number s · here() + e.
  ExpertParameters leaves;

  int64_t here() const { return experts / group.size(); }
  int64_t first() const { return here() * group.rank(); }  ///< of those here
  /// Brings leaves to where parameters are, which may have been moved, converted or frozen.
  void update_leaves() const;
};

/// Throws naming `layer` where experts cannot be computed by ranks that know nothing else of them.
void require_spreadable(const std::string& layer, const Children& experts);

/// Makes the leaves of experts whose parameters here are filled.
std::shared_ptr<SpreadExperts> spread_over(const dist::Comm& group, const Children& experts);

/// run_experts(), each expert on its rank. An operation of all ranks of the group, in forward and
/// in backward: rows go to the ranks of their experts and come back, and each rank computes groups
/// of rows by source and expert, those of the unspread layer on the source rank. The host reads the
/// offsets, and ranks tell each other their counts, before rows travel.
Tensor run_spread(const Children& experts, const SpreadExperts& spread, const Tensor& x,
                  const Tensor& offsets, Context& ctx);

}  // namespace olm::nn
