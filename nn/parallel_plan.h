#pragma once
// What training on many ranks takes of each of them, computed from the architecture before anything
// starts: memory, bytes sent, operations; and, from the speed of ranks, the time of a step.
//
//   const ParallelPlanOptions options{.ranks = 8, .batch = 4, .context = 1024,
//                                     .parallel = {.micro_batches = 32}};
//   const ParallelPlan plan = parallel_plan(*model, options);
//   const StepTime time = step_time(plan, {.matrix_flops = 989e12, .link_bytes = 50e9});
#include <cstdint>
#include <optional>

#include <olm/nn/cost.h>
#include <olm/nn/parallel.h>

namespace olm::nn {

struct ParallelPlanOptions {
  int64_t ranks = 1;
  /// The one in question; of those with the most micro-batches the first with most moments.
  std::optional<int64_t> rank = {};
  int64_t batch = 1;                     ///< sequences of a micro-batch
  int64_t context = 1;                   ///< tokens of each sequence
  DType dtype = f32;                     ///< of activations, f32 or bf16
  const Optimizer* optimizer = nullptr;  ///< of the model's parameters; null: AdamW
  /// Ranks over which the experts of each mixture are spread; divides `ranks`.
  int64_t expert_ranks = 1;
  DataParallelOptions parallel = {};  ///< `order` is that of the model
  /// Buckets of gradients that are under way while backward goes on: where they travel as fast as
  /// they come one and that which leaves, and where not at most four.
  int64_t under_way = 2;
};

/// Bytes of a rank at the moment of a step at which it holds most, without the workspaces of
/// kernels.
struct RankMemory {
  double weights = 0;
  double gradients = 0;  ///< those of one micro-batch, or of all where they are added as they come
  double kept_gradients = 0;  ///< more of them, until they are added in the order of the tree
  double moments = 0;         ///< of the optimizer
  double buckets = 0;         ///< of gradients or weights, under way
  double activations = 0;
  double total() const {
    return weights + gradients + kept_gradients + moments + buckets + activations;
  }
};

/// Bytes that a rank sends to others in a step.
struct RankTraffic {
  double gradients = 0;  ///< while backward goes on; without ZeRO their sums too
  double weights = 0;    ///< after the update
  double tokens = 0;     ///< rows of mixtures to the ranks of their experts, and back, both passes
  double news = 0;       ///< losses, norms and which gradients there are
  double total() const { return gradients + weights + tokens + news; }
};

/// What all wait for in a step: of every few buckets that are under way together, the rank that
/// owns most of them, which adds what all others send it and hands out weights to all. Cuts are at
/// blocks, so that of a small bucket not every one of many ranks owns a part.
struct BusiestTraffic {
  double gradients = 0, weights = 0;  ///< bytes that it receives, and sends
  double messages = 0;                ///< of each
};

/// Of one rank.
struct ParallelPlan {
  int64_t ranks = 1, expert_ranks = 1;  ///< as asked for
  int64_t parameters = 0;               ///< of the whole model
  int64_t rank_parameters = 0;          ///< that it holds
  int64_t updated_parameters = 0;       ///< of them, those that it updates
  int64_t micro_batches = 0;            ///< that it computes in a step
  int64_t tokens = 0;                   ///< of a step, over all ranks
  int64_t buckets = 0;                  ///< in which gradients travel
  RankMemory memory = {};
  RankTraffic sent = {};
  BusiestTraffic busiest = {};
  double model_flops = 0;   ///< forward and backward of its micro-batches
  double flops = 0;         ///< with what is recomputed
  double update_bytes = 0;  ///< that adding gradients and updating read and write
  double update_flops = 0;  ///< of the GEMMs of Muon, on the rank with most of them
};
/// Throws for more ranks than micro-batches, for experts that do not divide or whose ranks have
/// unlike numbers of micro-batches, and where the model does not take ids [batch, context].
OLM_API ParallelPlan parallel_plan(Module& model, const ParallelPlanOptions& options);
/// The largest batch with which a rank holds at most `bytes`; 0 where none does.
OLM_API int64_t largest_batch(Module& model, const ParallelPlanOptions& options, double bytes);

/// How fast a rank is.
struct RankSpeed {
  double matrix_flops = 0;  ///< per second, at which it multiplies matrices
  double share = 1;         ///< of them, that forward and backward reach with all that is in them
  double memory_bytes = 0;  ///< per second, of its memory; 0: the update takes no time
  /// Bytes per second that it sends to other machines, and to ranks of its own while it does.
  double link_bytes = 0, local_bytes = 0;
  int64_t ranks_per_machine = 1;
  double message_seconds = 0;  ///< of a message to another rank, before the next one can leave
  double overlap = 1;          ///< of the time of backward, that messages can use
};

/// Seconds of a step.
struct StepTime {
  double compute = 0;        ///< forward and backward
  double update = 0;         ///< adding gradients, and the optimizer
  double communication = 0;  ///< in which something travels
  double exposed = 0;        ///< of it, that computing waits for
  double seconds() const { return compute + update + exposed; }
};
/// Gradients travel while backward of the last micro-batch goes on, which takes two thirds of its
/// time; weights while others are updated; rows of mixtures while nothing else is done.
OLM_API StepTime step_time(const ParallelPlan& plan, const RankSpeed& speed);
/// Of the buckets of gradients how many have not arrived at the end of backward, where they come
/// faster than they travel: ParallelPlanOptions::under_way for such ranks; else 2.
OLM_API int64_t buckets_under_way(const ParallelPlan& plan, const RankSpeed& speed);

}  // namespace olm::nn
