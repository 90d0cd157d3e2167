#pragma once
// Small models trained on ranks, and what is left of them.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <olm/nn/parallel.h>

namespace olm::test {

/// What is trained, and how.
struct RankTraining {
  std::string name = {};
  bool experts = false;
  int64_t spread = 1;     ///< ranks over which experts are spread
  bool frozen = false;    ///< the first layer
  bool gaps = false;      ///< micro-batches 0 to 3 and 8 to 15 have no target
  bool muon = false;      ///< the optimizer; else AdamW
  bool on_cards = false;  ///< rank r on cuda(r)
  DType parameters = f32, activations = f32;
  nn::DataParallelOptions parallel = {.micro_batches = 8};
  nn::StepOptions how = {};
  /// A micro-batch whose gradient of parameter `bad_parameter` (in the order of keys) is NaN.
  int64_t bad_micro_batch = -1, bad_parameter = 0;
};

/// What a run leaves: parameters and moments by name, whole, and the reports of its steps.
struct RankResult {
  std::map<std::string, Tensor> state = {};
  std::vector<nn::StepInfo> steps = {};
  std::vector<int64_t> targets = {};
};

nn::Ref<nn::Module> make_rank_model(const RankTraining& made, uint64_t seed);
std::unique_ptr<nn::Optimizer> make_rank_optimizer(const RankTraining& made, nn::Module& model);

/// The loss of a micro-batch, from its number alone.
struct RankLoss {
  Tensor loss = {};
  Tensors aux = {};
  int64_t targets = 0;
};
RankLoss rank_loss(nn::Module& model, const RankTraining& made, int64_t number);
/// loss, whose gradient of p is that and `extra`.
Tensor with_gradient(const Tensor& loss, const Tensor& p, double extra);
/// A loss whose gradient reaches parameters one by one, the last one first, without activations.
Tensor chain_of(const Tensors& parameters, double gradient = 0.5);
/// n parameters of zeros.
Tensors make_leaves(int64_t n, const Shape& shape);

/// Backward of a rank's micro-batches of a step.
void run_micro_batches(nn::DataParallel& parallel, nn::Module& model, const RankTraining& made,
                       int64_t step);
/// Trains on so many ranks, and checks that all see the same; `watch` is called on each of them
/// after a step.
using Watch = std::function<void(nn::DataParallel&, int64_t step)>;
RankResult train_on_ranks(const RankTraining& made, int ranks, int64_t steps = 3,
                          const Watch& watch = {});

void check_same(const RankResult& got, const RankResult& wanted);
/// Parameters differ by no more than `tolerance`.
void check_near(const RankResult& got, const RankResult& wanted, double tolerance);

}  // namespace olm::test
