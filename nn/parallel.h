#pragma once
// Training on many processes, with the same bits on any number of them.
//
//   dist::init();                                              // one line to join the others
//   AdamW optimizer(model->parameters(), {.lr = 3e-4});
//   DataParallel parallel(optimizer, {.micro_batches = 8});    // of a step, over all ranks
//   for (int64_t step = 0; step < 1000; ++step) {
//     for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {  // this rank's part of them
//       const Batch batch = loader.at(step * 8 + i);
//       Generator rng(derive_seed(1, std::to_string(step * 8 + i)));  // of its dropout
//       Context ctx{.rng = &rng};
//       const Tensor loss = model->loss(batch.inputs, batch.targets, ctx);
//       parallel.backward(loss, count_targets(batch.targets), ctx.aux_losses);
//     }
//     parallel.step();                                         // sums, clips, updates, hands out
//   }
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <olm/engine/comm.h>
#include <olm/nn/expert_parallel.h>
#include <olm/nn/module.h>
#include <olm/nn/optim.h>

namespace olm::nn {

struct DataParallelOptions {
  int64_t micro_batches = 1;  ///< of a step, over all ranks; at least one for each
  /// 1: each rank keeps the moments of its part of the parameters alone, and updates that part
  /// (ZeRO-1; Rajbhandari et al. 2020, arXiv:1910.02054). 0: of all.
  int64_t zero = 1;
  double bucket_mb = 25;  ///< MiB of gradients that travel together, or one parameter's
  /// Gradients are added in a fixed order, so that bits do not depend on the number of ranks; it
  /// costs memory for as many more gradients as a rank's micro-batches have binary digits. Else
  /// each is added to those before it, and ranks' sums as the transport likes.
  bool deterministic = true;
  DType wire = f32;    ///< what gradients travel in; bf16 halves the bytes, and changes bits
  Tensors order = {};  ///< parameters in the order of the model; the optimizer's if empty
};

/// What a step of DataParallel moves and keeps at most, of this rank.
struct ParallelCost {
  int64_t bytes_sent = 0;  ///< per step, to other ranks; experts' rows and notes are not in it
  /// Of gradients that are kept between micro-batches; in a world of one, up to the update.
  size_t gradient_bytes = 0;
  size_t moment_bytes = 0;  ///< of the optimizer, once all parameters had a gradient
  /// Of the sums of this rank's part, of gradients under way, and of those that wait to fill one
  /// more bucket.
  size_t bucket_bytes = 0;
  int64_t buckets = 0;              ///< of gradients, per step
  int64_t buckets_in_backward = 0;  ///< those of the last step that left before backward had ended
};

/// Gradients of micro-batches on all ranks, summed, and the update of an optimizer on their mean
/// over targets. The sum is a binary tree over the number of the micro-batch (SumTree), of which a
/// rank computes a node: the same bits on 1, 2, 4 ranks. Buckets of gradients travel while backward
/// still runs. In a world of one nothing travels. Parameters that are frozen when it is made stay
/// so. Where a backward pass throws on all ranks alike, zero_grad() on all forgets the step.
class OLM_API DataParallel {
 public:
  /// Collective. Hands rank 0's parameters to all; throws where ranks disagree on parameters or
  /// options, naming what differs, and for more ranks than micro-batches. `experts`, if given, has
  /// spread the experts of the model over ranks.
  explicit DataParallel(Optimizer& optimizer, DataParallelOptions options = {},
                        dist::Comm comm = dist::world(),
                        std::shared_ptr<ExpertParallel> experts = nullptr);
  ~DataParallel();
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  const dist::Comm& comm() const;
  const DataParallelOptions& options() const;
  Optimizer& optimizer() const;
  /// Micro-batches [begin(), end()) of each step are this rank's.
  int64_t begin() const;
  int64_t end() const;

  /// The backward pass of this rank's next micro-batch, whose mean `loss` is over `targets` targets
  /// and has the losses `aux` in it. Called once for each, in order.
  void backward(const Tensor& loss, int64_t targets, const Tensors& aux = {});
  /// Optimizer::step() on the sum over all ranks; all get the same StepInfo, whose losses are means
  /// over all targets. gradient_scale is set here, to one over the targets of all. `note` travels
  /// along, of any length; see notes().
  StepInfo step(StepOptions options = {}, const std::string& note = {});
  /// What each rank gave the last step as its note.
  const std::vector<std::string>& notes() const;
  /// Forgets the micro-batches since the last step; on all ranks, at the same place in it. One that
  /// alone has thrown ends the others instead, which may wait for it: see dist::fail().
  void zero_grad();
  /// Targets of the last step, over all ranks.
  int64_t targets() const;

  /// What this rank writes of the parameters and moments, so that each element is written once.
  const std::vector<ParameterRange>& written() const;
  ParallelCost cost() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace olm::nn
