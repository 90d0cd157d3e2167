#pragma once
// The memory of a rank over a step, from that of a pass and from the buckets.
#include <map>
#include <string>
#include <vector>

#include <olm/nn/parallel/buckets_internal.h>
#include <olm/nn/parallel_plan.h>

namespace olm::nn::parallel {

/// What a step does, of one rank.
struct PlannedStep {
  PassMemory pass = {};
  std::vector<Bucket> buckets = {};  ///< none in a world of one
  /// Of each gradient by its key: Member::parameter of what takes it. Of experts spread over ranks
  /// the gradients of all are there: they stand for those of this rank's experts for all ranks.
  std::map<std::string, int64_t> parameters = {};
  size_t all_parameters = 0;  ///< of the model, frozen ones too
  int64_t micro_batches = 1;  ///< of the rank
  int64_t under_way = 1;
  int rank = 0, ranks = 1;
  int replica = 0, replicas = 1;  ///< among ranks that keep the same experts
  DataParallelOptions options = {};
};

/// The moment at which most is held, but for weights and moments.
RankMemory most_memory(const PlannedStep& step);

}  // namespace olm::nn::parallel
