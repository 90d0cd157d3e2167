#include <olm/nn/parallel_plan.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include <olm/engine/raw_optim.h>
#include <olm/nn/expert_parallel.h>
#include <olm/nn/moe.h>
#include <olm/nn/parallel/plan_memory_internal.h>
#include <olm/nn/parallel/step_exchange_internal.h>
#include <olm/nn/parallel/transfer_internal.h>
#include <olm/nn/structure.h>

namespace olm::nn {

using namespace parallel;

namespace {

constexpr double kF32 = 4;           // bytes of a parameter, of a gradient, of a moment
constexpr double kMaxTokens = 1e18;  // of a step, far from what an integer holds

/// What a plan asks of the layers of a model.
class Layers {
 public:
  Layers(Module& model, const ParallelPlanOptions& o) {
    model.for_each_module([&](const std::string& path, Module& module) {
      const auto* repeat = dynamic_cast<const RepeatModule*>(&module);
      const bool again = (repeat && repeat->recompute) || dynamic_cast<RecomputeModule*>(&module);
      if (again && !is_recomputed(path)) {
        recomputed_.push_back(path);
        recomputed_flops += forward_flops_per_token(module, o.context);
      }
      auto* mixture = dynamic_cast<MoEFeedForwardBase*>(&module);
      if (mixture && o.expert_ranks > 1) add(path, *mixture, o.expert_ranks);
    });
    require(o.expert_ranks == 1 || !stand_in_.empty(),
            "parallel_plan: a model without experts cannot spread them over ", o.expert_ranks,
            " ranks");
  }

  double recomputed_flops = 0;  ///< of forward of a token, that backward repeats
  /// Of rows that one token sends to experts and gets back, over all mixtures and both passes.
  double row_elements = 0;
  /// The parameter of the first rank's experts that stands for one of any expert; null for those
  /// that are not spread.
  const TensorImpl* stand_in(const Tensor& parameter) const {
    const auto found = stand_in_.find(&parameter.impl());
    return found == stand_in_.end() ? nullptr : found->second;
  }

 private:
  bool is_recomputed(const std::string& path) const {
    return std::any_of(recomputed_.begin(), recomputed_.end(), [&](const std::string& outer) {
      return outer.empty() || path.starts_with(outer + ".");
    });
  }
  void add(const std::string& path, MoEFeedForwardBase& mixture, int64_t ranks) {
    const auto experts = int64_t(mixture.experts.size());
    require(experts % ranks == 0, "parallel_plan: ", ranks, " ranks do not divide the ", experts,
            " experts of ", path);
    const double passes = is_recomputed(path) ? 3 : 2;
    row_elements += passes * 2 * double(mixture.mixture.top_k * mixture.mixture.embed_dim);
    for (int64_t i = 0; i < experts; ++i) {
      const Tensors own = mixture.experts.at(size_t(i))->parameters();
      const Tensors first = mixture.experts.at(size_t(i % (experts / ranks)))->parameters();
      for (size_t p = 0; p < own.size(); ++p) stand_in_[&own[p].impl()] = &first[p].impl();
    }
  }

  std::map<const TensorImpl*, const TensorImpl*> stand_in_;
  std::vector<std::string> recomputed_;
};

void check(const ParallelPlanOptions& o) {
  require(o.ranks >= 1, "parallel_plan: wants at least one rank, got ", o.ranks);
  require(!o.rank || (*o.rank >= 0 && *o.rank < o.ranks), "parallel_plan: wants one of ", o.ranks,
          " ranks, got ", o.rank.value_or(0));
  require(o.parallel.micro_batches >= o.ranks, "parallel_plan: ", o.ranks,
          " ranks want at least as many micro-batches in a step, got ", o.parallel.micro_batches);
  require(o.expert_ranks >= 1 && o.ranks % o.expert_ranks == 0,
          "parallel_plan: experts spread over ", o.expert_ranks, " ranks do not divide ", o.ranks,
          " ranks");
  require_even_groups(o.ranks / o.expert_ranks, o.expert_ranks, o.parallel.micro_batches,
                      o.parallel.deterministic);
  const double tokens = double(o.batch) * double(o.context) * double(o.parallel.micro_batches);
  require(tokens < kMaxTokens, "parallel_plan: wants a step of less than ", kMaxTokens,
          " tokens, got ", tokens);
  require(o.parallel.zero == 0 || o.parallel.zero == 1, "parallel_plan: zero wants 0 or 1, got ",
          o.parallel.zero);
  require(o.parallel.bucket_mb > 0, "parallel_plan: bucket_mb wants more than 0, got ",
          o.parallel.bucket_mb);
  require(o.under_way >= 1, "parallel_plan: under_way wants at least 1, got ", o.under_way);
}

/// What an optimizer does to some elements.
struct Updates {
  double elements = 0, moments = 0, flops = 0;
  void add(int64_t n, const ParameterUpdate& update) {
    elements += double(n);
    moments += double(n * update.moments);
    flops += update.flops;
  }
  void add(const Updates& other) {
    elements += other.elements;
    moments += other.moments;
    flops += other.flops;
  }
};

/// All of a step but the memory of its passes.
struct Outline {
  PlannedStep step = {};
  double parameters = 0, held = 0;  // of the model; of the rank
  Updates trained = {};             // all that the rank holds, but for what is frozen
  std::vector<Updates> owned = {};  // by each of several ranks
};

/// Elements of a bucket that each rank adds, of those that share it.
dist::Counts added_counts(const Bucket& b, const PlannedStep& s) {
  return s.options.zero == 1 ? b.counts
                             : dist::even_counts(b.elements, b.expert ? s.replicas : s.ranks);
}

/// Calls f(rank, elements) for each rank's part of a bucket.
template <class F>
void for_each_part(const Bucket& b, const dist::Counts& counts, const PlannedStep& s, const F& f) {
  const size_t ranks_per_part = b.expert ? size_t(s.ranks / s.replicas) : 1;
  for (size_t r = 0; r < size_t(s.ranks); ++r) f(r, double(counts[r / ranks_per_part]));
}

/// What each rank updates, where each does what it owns.
std::vector<Updates> owned_updates(const PlannedStep& s,
                                   const std::vector<ParameterUpdate>& updates) {
  std::vector<Updates> owned(size_t(s.ranks));
  for (const Bucket& b : s.buckets) {
    if (!b.trained) continue;
    std::vector<Updates> parts(b.counts.size());
    size_t part = 0;
    int64_t left = b.counts[0];
    for (const Member& m : b.members)
      for (int64_t n = m.numel, taken = 0; n > 0; n -= taken, left -= taken) {
        while (left == 0) left = b.counts[++part];
        taken = std::min(n, left);
        parts[part].add(taken, updates[size_t(m.parameter)]);
      }
    const size_t ranks_per_part = owned.size() / parts.size();
    for (size_t r = 0; r < owned.size(); ++r) owned[r].add(parts[r / ranks_per_part]);
  }
  return owned;
}

/// Of the ranks with the most micro-batches the first that keeps most moments.
int64_t usual_rank(const std::vector<SumTree::Node>& parts, const std::vector<Updates>& owned) {
  const auto holds = [&](size_t r) {
    return std::tuple(parts[r].size(), owned[r].moments, owned[r].elements);
  };
  size_t most = 0;
  for (size_t r = 1; r < parts.size(); ++r)
    if (holds(r) > holds(most)) most = r;
  return int64_t(most);
}

/// How each parameter of a model is updated.
std::map<const TensorImpl*, ParameterUpdate> updates_of(const Optimizer* optimizer) {
  std::map<const TensorImpl*, ParameterUpdate> updates;
  if (!optimizer) return updates;
  const Tensors parameters = optimizer->parameters();
  for (size_t i = 0; i < parameters.size(); ++i)
    updates[&parameters[i].impl()] = optimizer->update_of(int64_t(i));
  return updates;
}

Outline outline_of(Module& model, const Layers& layers, const ParallelPlanOptions& o) {
  Outline out{.step = {.under_way = std::min(o.under_way, int64_t(kUnderWay)),
                       .ranks = int(o.ranks),
                       .replicas = int(o.ranks / o.expert_ranks),
                       .options = o.parallel}};
  const auto updates = updates_of(o.optimizer);
  std::map<const TensorImpl*, int64_t> numbers;
  std::vector<Member> members;
  std::vector<ParameterUpdate> of_members;  // by Member::parameter
  for (const auto& [key, p] : model.named_parameters()) {
    ++out.step.all_parameters;
    out.parameters += double(p.numel());
    const TensorImpl* holder = layers.stand_in(p);
    const auto [number, fresh] = numbers.emplace(holder ? holder : &p.impl(), members.size());
    const bool trained = requires_grad(p);
    if (trained) out.step.parameters[key] = number->second;
    if (!fresh) continue;
    const auto known = updates.find(&p.impl());
    of_members.push_back(known == updates.end() ? ParameterUpdate{.moments = 2} : known->second);
    const ParameterUpdate& update = of_members.back();
    members.push_back(
        {number->second, p.numel(), f32, trained, holder != nullptr, update.divisible});
    out.held += double(p.numel());
    if (trained) out.trained.add(p.numel(), update);
  }
  std::reverse(members.begin(), members.end());  // as backward reaches them
  if (o.ranks > 1)
    out.step.buckets = make_buckets(members, o.parallel.bucket_mb * double(1 << 20), int(o.ranks),
                                    out.step.replicas);
  out.owned = owned_updates(out.step, of_members);
  const std::vector<SumTree::Node> parts = SumTree(o.parallel.micro_batches).cut(o.ranks);
  const int64_t rank = o.rank ? *o.rank : usual_rank(parts, out.owned);
  out.step.micro_batches = parts[size_t(rank)].size();
  out.step.rank = int(rank);
  out.step.replica = int(rank / o.expert_ranks);
  return out;
}

BusiestTraffic busiest_of(const PlannedStep& s) {
  BusiestTraffic busiest;
  const double wire = double(size_of(s.options.wire));
  const bool sharded = s.options.zero == 1;
  std::vector<double> bytes(size_t(s.ranks)), messages(size_t(s.ranks));
  size_t under_way = 0;
  const auto wait = [&] {
    const double elements = *std::max_element(bytes.begin(), bytes.end());
    busiest.gradients += elements * (sharded ? wire : wire + kF32);
    busiest.weights += sharded ? elements * kF32 : 0;
    busiest.messages += *std::max_element(messages.begin(), messages.end());
    std::fill(bytes.begin(), bytes.end(), 0);
    std::fill(messages.begin(), messages.end(), 0);
    under_way = 0;
  };
  for (const Bucket& b : s.buckets) {
    const int others = (b.expert ? s.replicas : s.ranks) - 1;
    if (!b.trained || others == 0) continue;
    for_each_part(b, added_counts(b, s), s, [&](size_t r, double n) {
      bytes[r] += n * others;
      messages[r] += n > 0 ? (sharded ? 1 : 2) * others : 0;
    });
    if (++under_way == kUnderWay) wait();
  }
  if (under_way > 0) wait();
  return busiest;
}

/// What the rank sends but for rows of mixtures.
RankTraffic traffic_of(const PlannedStep& s, int64_t* travelling) {
  RankTraffic sent;
  StepNews news{.losses = std::vector<MicroBatchLoss>(size_t(s.micro_batches)),
                .present = std::vector<bool>(s.all_parameters)};
  for (const Bucket& b : s.buckets) {
    const int ranks = b.expert ? s.replicas : s.ranks;
    const auto rank = size_t(b.expert ? s.replica : s.rank);
    for (const ParameterRange& r : ranges_of(b, int(rank)))
      news.sums.resize(news.sums.size() + size_t(raw::norm_blocks(r.end - r.begin)));
    if (!b.trained || ranks == 1) continue;
    const bool sharded = s.options.zero == 1;
    const auto own = double(added_counts(b, s)[rank]);
    sent.gradients += (double(b.elements) - own) * double(size_of(s.options.wire));
    (sharded ? sent.weights : sent.gradients) += own * double(ranks - 1) * kF32;
    ++*travelling;
  }
  if (s.ranks > 1) sent.news = double(gathered_bytes(pack(news).size(), s.ranks));
  return sent;
}

}  // namespace

ParallelPlan parallel_plan(Module& model, const ParallelPlanOptions& o) {
  check(o);
  const Layers layers(model, o);
  Outline outline = outline_of(model, layers, o);
  PlannedStep& step = outline.step;
  ParallelPlan plan{.ranks = o.ranks,
                    .expert_ranks = o.expert_ranks,
                    .parameters = int64_t(outline.parameters),
                    .rank_parameters = int64_t(outline.held),
                    .micro_batches = step.micro_batches,
                    .tokens = o.batch * o.context * o.parallel.micro_batches};
  plan.sent = traffic_of(step, &plan.buckets);
  plan.busiest = busiest_of(step);
  const bool shared = o.ranks > 1 && o.parallel.zero == 1;
  const Updates& updated = shared ? outline.owned[size_t(step.rank)] : outline.trained;
  plan.updated_parameters = int64_t(updated.elements);
  step.pass = pass_memory(model, {.batch = o.batch, .context = o.context, .dtype = o.dtype});
  plan.memory = most_memory(step);
  plan.memory.weights = outline.held * kF32;
  plan.memory.moments = updated.moments * kF32;
  const double tokens = double(o.batch * o.context * step.micro_batches);
  const double others = double(o.expert_ranks - 1) / double(o.expert_ranks);
  plan.sent.tokens = layers.row_elements * tokens * double(size_of(o.dtype)) * others;
  plan.model_flops = 3 * forward_flops_per_token(model, o.context) * tokens;
  plan.flops = plan.model_flops + layers.recomputed_flops * tokens;
  // Of two gradients one sum is written; the norm reads gradients; the update reads all and writes
  // all but them.
  plan.update_bytes = 3 * kF32 * outline.trained.elements * double(step.micro_batches - 1) +
                      (4 * updated.elements + 2 * updated.moments) * kF32;
  plan.update_flops = updated.flops;
  if (shared)
    for (const Updates& u : outline.owned) plan.update_flops = std::max(plan.update_flops, u.flops);
  return plan;
}

int64_t largest_batch(Module& model, const ParallelPlanOptions& options, double bytes) {
  constexpr int64_t kMax = 1000000;
  ParallelPlanOptions o = options;
  const auto fits = [&](int64_t batch) {
    o.batch = batch;
    return parallel_plan(model, o).memory.total() <= bytes;
  };
  int64_t low = 0, high = kMax + 1;  // what fits, and what does not or is no batch
  for (int64_t batch = 1; batch < high; batch *= 2) (fits(batch) ? low : high) = batch;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

namespace {

/// Seconds in which a rank sends `bytes` to the others of n ranks, of which neighbours share a
/// machine.
double travel_seconds(const RankSpeed& s, double bytes, int64_t n, double messages) {
  require(s.ranks_per_machine >= 1, "step_time: wants at least one rank per machine, got ",
          s.ranks_per_machine);
  if (bytes == 0) return 0;
  const int64_t near = std::min(n, s.ranks_per_machine);
  const double far_share = double(n - near) / double(n - 1);
  require(far_share == 0 || s.link_bytes > 0, "step_time: wants link_bytes above 0");
  require(near == 1 || s.local_bytes > 0, "step_time: wants local_bytes above 0");
  const double far = far_share > 0 ? bytes * far_share / s.link_bytes : 0;
  const double local = near > 1 ? bytes * (1 - far_share) / s.local_bytes : 0;
  return std::max({far, local, messages * s.message_seconds});
}

double bucket_count(const ParallelPlan& plan) { return double(std::max<int64_t>(1, plan.buckets)); }

double gradient_seconds(const ParallelPlan& plan, const RankSpeed& s) {
  return travel_seconds(s, std::max(plan.sent.gradients, plan.busiest.gradients), plan.ranks,
                        plan.busiest.messages);
}

double compute_seconds(const ParallelPlan& plan, const RankSpeed& s) {
  require(s.matrix_flops > 0 && s.share > 0, "step_time: wants matrix_flops and a share above 0");
  return plan.flops / (s.matrix_flops * s.share);
}

/// Of the last micro-batch, as much as messages can use.
double backward_seconds(const ParallelPlan& plan, const RankSpeed& s) {
  return s.overlap * compute_seconds(plan, s) * 2 / 3 / double(plan.micro_batches);
}

}  // namespace

StepTime step_time(const ParallelPlan& plan, const RankSpeed& s) {
  const double buckets = bucket_count(plan);
  const double gradients = gradient_seconds(plan, s);
  const double weights = travel_seconds(s, std::max(plan.sent.weights, plan.busiest.weights),
                                        plan.ranks, plan.busiest.messages);
  const double tokens = travel_seconds(s, plan.sent.tokens, plan.expert_ranks, 0);
  StepTime time{.compute = compute_seconds(plan, s),
                .update = (s.memory_bytes > 0 ? plan.update_bytes / s.memory_bytes : 0) +
                          plan.update_flops / (s.matrix_flops * s.share),
                .communication = gradients + weights + tokens};
  // The last bucket has nothing to hide behind.
  time.exposed = std::max(gradients - backward_seconds(plan, s), gradients / buckets) +
                 std::max(weights - time.update, weights / buckets) + tokens;
  return time;
}

int64_t buckets_under_way(const ParallelPlan& plan, const RankSpeed& s) {
  const double gradients = gradient_seconds(plan, s);
  const int64_t usual = ParallelPlanOptions().under_way;
  if (gradients == 0) return usual;
  const double left = 1 - backward_seconds(plan, s) / gradients;
  return std::max(usual, int64_t(std::ceil(double(plan.buckets) * left)));
}

}  // namespace olm::nn
