#include <olm/nn/parallel_plan.h>

#include <algorithm>
#include <cmath>
#include <set>

#include <olm/engine/sum_tree.h>
#include <olm/nn/moe.h>
#include <olm/nn/structure.h>

namespace olm::nn {
namespace {

constexpr double kF32 = 4;  // bytes of a parameter, of a gradient, of a moment

/// What a plan asks of the layers of a model.
class Layers {
 public:
  explicit Layers(Module& model, int64_t context) {
    model.for_each_module([&](const std::string& path, Module& module) {
      const auto* repeat = dynamic_cast<const RepeatModule*>(&module);
      const bool again = (repeat && repeat->recompute) || dynamic_cast<RecomputeModule*>(&module);
      if (again && !is_recomputed(path)) {
        recomputed_.push_back(path);
        recomputed_flops += forward_flops_per_token(module, context);
      }
      if (auto* mixture = dynamic_cast<MoEFeedForwardBase*>(&module)) add(path, *mixture);
    });
    for (const Tensor& p : model.parameters()) {
      if (!requires_grad(p)) continue;
      (experts_.count(&p.impl()) ? experts : dense) += double(p.numel());
    }
  }

  double dense = 0, experts = 0;  ///< trained parameters
  double recomputed_flops = 0;    ///< of forward of a token, that backward repeats
  /// Of rows that one token sends to experts and gets back, over all mixtures and both passes.
  double row_elements = 0;

 private:
  bool is_recomputed(const std::string& path) const {
    return std::any_of(recomputed_.begin(), recomputed_.end(), [&](const std::string& outer) {
      return outer.empty() || path.starts_with(outer + ".");
    });
  }
  void add(const std::string& path, MoEFeedForwardBase& mixture) {
    const double passes = is_recomputed(path) ? 3 : 2;
    row_elements += passes * 2 * double(mixture.mixture.top_k * mixture.mixture.embed_dim);
    for (size_t i = 0; i < mixture.experts.size(); ++i)
      for (const Tensor& p : mixture.experts.at(i)->parameters()) experts_.insert(&p.impl());
  }

  std::set<const TensorImpl*> experts_;
  std::vector<std::string> recomputed_;
};

void check(const ParallelPlanOptions& o) {
  require(o.ranks >= 1, "plan: wants at least one rank, got ", o.ranks);
  require(o.parallel.micro_batches >= o.ranks, "plan: ", o.ranks,
          " ranks want at least as many micro-batches in a step, got ", o.parallel.micro_batches);
  require(o.expert_ranks >= 1 && o.ranks % o.expert_ranks == 0, "plan: experts spread over ",
          o.expert_ranks, " ranks do not divide ", o.ranks, " ranks");
  require(o.parallel.zero == 0 || o.parallel.zero == 1, "plan: zero wants 0 or 1, got ",
          o.parallel.zero);
  require(o.parallel.bucket_mb > 0, "plan: bucket_mb wants more than 0, got ",
          o.parallel.bucket_mb);
}

/// Micro-batches of the rank with the most of them.
int64_t most_micro_batches(const ParallelPlanOptions& o) {
  int64_t most = 0;
  for (const SumTree::Node& node : SumTree(o.parallel.micro_batches).cut(o.ranks))
    most = std::max(most, node.size());
  return most;
}

/// Gradients of one micro-batch that lie there before and after each of a rank's micro-batches.
struct Kept {
  double before = 0, after = 0;
};
std::vector<Kept> kept_gradients(int64_t micro_batches, bool deterministic) {
  if (!deterministic)
    return micro_batches == 1 ? std::vector<Kept>{{0, 1}} : std::vector<Kept>{{0, 1}, {1, 1}};
  std::vector<Kept> kept;
  double depth = 0;
  for (int64_t i = 0; i < micro_batches; ++i) {
    const double after = depth + 1 - double(SumTree::additions_after(i, micro_batches));
    kept.push_back({depth, after});
    depth = after;
  }
  return kept;
}

/// The share of what n ranks have in parts, that each sends to the others.
double to_others(int64_t n) { return double(n - 1) / double(n); }

RankTraffic traffic_of(const Layers& layers, const ParallelPlanOptions& o, int64_t micro_batches) {
  const int64_t groups = o.ranks / o.expert_ranks;  // that hold the same experts
  const double held = layers.dense * to_others(o.ranks) +
                      layers.experts / double(o.expert_ranks) * to_others(groups);
  const double rows = layers.row_elements * double(o.batch * o.context * micro_batches);
  RankTraffic sent{.gradients = held * double(size_of(o.parallel.wire)),
                   .tokens = rows * double(size_of(o.dtype)) * to_others(o.expert_ranks)};
  (o.parallel.zero == 1 ? sent.weights : sent.gradients) += held * kF32;
  return sent;
}

/// The most that passes hold beside weights, moments and messages.
RankMemory most_of(const PassMemory& pass, const std::vector<Kept>& kept) {
  const double all = pass.gradient_bytes();
  RankMemory most;
  const auto take = [&](double activations, double gradients) {
    if (activations + gradients <= most.total()) return;
    most = {.gradients = std::min(gradients, all),
            .kept_gradients = std::max(0.0, gradients - all),
            .activations = activations};
  };
  for (const Kept& k : kept) {
    double arrived = 0;
    for (const PassMemory::Arrival& a : pass.arrivals) {
      take(a.peak, k.before * (all - arrived) + k.after * arrived);
      arrived += a.bytes;
    }
    take(pass.rest, k.after * arrived);
  }
  return most;
}

PassMemory pass_of(Module& model, const ParallelPlanOptions& o) {
  return pass_memory(model, {.batch = o.batch, .context = o.context, .dtype = o.dtype});
}

}  // namespace

ParallelPlan parallel_plan(Module& model, const ParallelPlanOptions& o) {
  check(o);
  const Layers layers(model, o.context);
  const double spread = double(o.expert_ranks), experts = layers.experts / spread;
  const double all = double(model.num_parameters()), held = all - layers.experts + experts;
  const double shards = o.parallel.zero == 1 ? double(o.ranks) : 1;
  const double updated =
      layers.dense / shards + experts / (o.parallel.zero == 1 ? shards / spread : 1);
  const int64_t mine = most_micro_batches(o);
  ParallelPlan plan{.ranks = o.ranks,
                    .expert_ranks = o.expert_ranks,
                    .parameters = int64_t(all),
                    .rank_parameters = std::llround(held),
                    .updated_parameters = std::llround(updated),
                    .micro_batches = mine,
                    .tokens = o.batch * o.context * o.parallel.micro_batches};
  if (o.ranks > 1)
    plan.buckets = int64_t(
        std::ceil((layers.dense + experts) * kF32 / (o.parallel.bucket_mb * double(1 << 20))));
  plan.memory = most_of(pass_of(model, o), kept_gradients(mine, o.parallel.deterministic));
  plan.memory.weights = held * kF32;
  plan.memory.moments = updated * double(o.moments) * kF32;
  plan.sent = traffic_of(layers, o, mine);
  const double tokens = double(o.batch * o.context * mine);
  const double forward = forward_flops_per_token(model, o.context);
  plan.model_flops = 3 * forward * tokens;
  plan.flops = plan.model_flops + layers.recomputed_flops * tokens;
  // Two gradients are read and one is written; of gradient, parameter and moments all are read and
  // all but the gradient written; and each gradient is read for the norm.
  const double trained = layers.dense + experts;
  plan.update_bytes =
      3 * kF32 * trained * double(mine - 1) + (4 + 2 * double(o.moments)) * kF32 * updated;
  return plan;
}

int64_t largest_batch(Module& model, const ParallelPlanOptions& options, double bytes) {
  constexpr int64_t kMax = 1000000;
  ParallelPlanOptions o = options;
  const auto fits = [&](int64_t batch) {
    o.batch = batch;
    return parallel_plan(model, o).memory.total() <= bytes;
  };
  if (!fits(1)) return 0;
  int64_t low = 1, high = 2;  // one that fits, one that may not
  while (high < kMax && fits(high)) low = high, high *= 2;
  if (high >= kMax) return fits(kMax) ? kMax : low;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

StepTime step_time(const ParallelPlan& plan, const RankSpeed& s) {
  require(s.matrix_flops > 0 && s.share > 0, "step_time: wants matrix_flops and a share above 0");
  require(s.ranks_per_machine >= 1, "step_time: wants at least one rank per machine, got ",
          s.ranks_per_machine);
  // Neighbours share a machine; the others of n ranks are reached through the link.
  const auto seconds = [&](double bytes, int64_t n, double messages) {
    if (bytes == 0) return 0.0;
    const int64_t near = std::min(n, s.ranks_per_machine);
    const double far_share = double(n - near) / double(n - 1);
    require(far_share == 0 || s.link_bytes > 0, "step_time: wants link_bytes above 0");
    require(near == 1 || s.local_bytes > 0, "step_time: wants local_bytes above 0");
    const double far = far_share > 0 ? bytes * far_share / s.link_bytes : 0;
    const double local = near > 1 ? bytes * (1 - far_share) / s.local_bytes : 0;
    return std::max({far, local, messages * s.message_seconds});
  };
  const double buckets = double(std::max<int64_t>(1, plan.buckets));
  const double messages = buckets * double(plan.ranks - 1);
  const double gradients = seconds(plan.sent.gradients, plan.ranks, messages);
  const double weights = seconds(plan.sent.weights, plan.ranks, messages);
  const double tokens = seconds(plan.sent.tokens, plan.expert_ranks, 0);
  StepTime time{.compute = plan.flops / (s.matrix_flops * s.share),
                .update = s.memory_bytes > 0 ? plan.update_bytes / s.memory_bytes : 0,
                .communication = gradients + weights + tokens};
  const double backward = s.overlap * time.compute * 2 / 3 / double(plan.micro_batches);
  // The last bucket has nothing to hide behind.
  time.exposed = std::max(gradients - backward, gradients / buckets) +
                 std::max(weights - time.update, weights / buckets) + tokens;
  return time;
}

}  // namespace olm::nn
