#pragma once
// Experts of mixtures spread over ranks (expert parallelism; Lepikhin et al. 2020,
// arXiv:2006.16668): a rank keeps some of the experts of each layer, and rows of tokens travel to
// the ranks of their experts and back.
//
//   dist::init();
//   const auto experts = spread_experts(*model, 4);            // over groups of 4 ranks
//   AdamW optimizer(model->parameters(), {.lr = 3e-4});
//   DataParallel parallel(optimizer, {.micro_batches = 8}, dist::world(), experts);
//
// From then on forward and backward of the model are operations of all ranks of a group: they run
// the same number of them, in the same order, also in evaluation and generation. On cards the
// graphs of all ranks of the world are alike where they train: so they begin what they exchange in
// one order, which NCCL wants of communicators that share a card. Results are those of the model
// before, in bits: every row is computed in the company of the same rows.
#include <memory>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/nn/module.h>

namespace olm::nn {

/// What spread_experts() did to a model; see nn/parallel.h for who adds up the gradients.
class OLM_API ExpertParallel {
 public:
  /// The gradient of an expert's parameter for rows of one rank arrives at a leaf of its own, a
  /// second handle on the parameter.
  struct Source {
    Tensor parameter = {};  ///< one of an expert that this rank keeps
    int rank = 0;           ///< whose rows, in group()
    Tensor leaf = {};
  };

  ExpertParallel(dist::Comm group, dist::Comm replicas, std::vector<Source> sources);
  /// Ranks that keep all experts between them: neighbours in the world.
  const dist::Comm& group() const { return group_; }
  /// Ranks that keep the experts that this one keeps, one of each group, in their order.
  const dist::Comm& replicas() const { return replicas_; }
  /// Parameter by parameter, those of one in the order of ranks; empty in groups of one rank.
  const std::vector<Source>& sources() const { return sources_; }
  /// Throws where the ranks of the world cannot train on so many micro-batches to a step: see
  /// require_even_groups().
  void check_micro_batches(int64_t micro_batches, bool ordered) const;

 private:
  dist::Comm group_, replicas_;
  std::vector<Source> sources_;
};

/// Throws where spread_experts() would for this model, and changes nothing; on this rank alone.
OLM_API void require_spreadable_experts(Module& model, int64_t ranks);
/// Throws where `groups` of so many ranks that share experts cannot train on so many micro-batches:
/// each rank of a group runs as many as the others, and where sums are ordered those of each group
/// are a node of SumTree, cut among groups.
OLM_API void require_even_groups(int64_t groups, int64_t in_group, int64_t micro_batches,
                                 bool ordered);

/// Spreads the experts of every mixture of a model, whose parameters are filled alike on all ranks,
/// over groups of `ranks` neighbours: rank s of E / ranks experts from s · E / ranks on. Parameters
/// of the other experts are freed: they stay in parameters(), on meta (Parameter::is_elsewhere());
/// router and shared experts stay everywhere. An operation of all ranks of `world`. Throws where
/// `ranks` does not divide the world or the experts of a layer, where the experts of a layer cannot
/// be computed together (see MoEFeedForwardBase) or share parameters with others, and for a model
/// without mixtures, or whose experts are spread already.
OLM_API std::shared_ptr<ExpertParallel> spread_experts(Module& model, int64_t ranks,
                                                       dist::Comm world = dist::world());

}  // namespace olm::nn
