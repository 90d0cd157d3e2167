#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/index.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/select.h>
#include <olm/autograd/ops/view.h>
#include <olm/nn/moe.h>

namespace olm::nn {

namespace {

constexpr double kEpsilon = 1e-20;  // keeps shares finite where all scores are 0, as moe_route()'s

const MoERouterOptions& checked(const MoERouterOptions& o) {
  check_fields(o, "MoERouter");
  const MoERoutingOptions& r = o.routing;
  require(o.top_k <= o.num_experts, "MoERouter: wanted a top_k of at most num_experts, got top_k ",
          o.top_k, " of ", o.num_experts, " experts");
  require(o.num_experts % r.n_group == 0, "MoERouter: n_group ", r.n_group, " does not divide ",
          o.num_experts, " experts");
  require(r.topk_group <= r.n_group, "MoERouter: wanted a topk_group of at most n_group, got ",
          r.topk_group, " of ", r.n_group, " groups");
  const int64_t within = o.num_experts / r.n_group * r.topk_group;
  require(o.top_k <= within, "MoERouter: top_k ", o.top_k, " is more than the ", within,
          " experts of topk_group ", r.topk_group, " of n_group ", r.n_group);
  return o;
}

}  // namespace

MoERouterModule::MoERouterModule(const MoERouterOptions& o)
    : Layer(checked(o)), gate(this, "gate", Linear(o.embed_dim, o.num_experts, {.bias = false})) {
  if (o.routing.use_expert_bias)
    expert_bias.emplace(this, "expert_bias", zeros({o.num_experts}), true);
}

RoutedTokens MoERouterModule::route(const Tensor& x, Context& ctx) {
  const MoERoutingOptions& r = options.routing;
  const Tensor logits = gate(cast(x, acc_dtype(x.dtype())), ctx);
  Tensor bias;
  if (expert_bias) bias = expert_bias->as(options_of(logits));
  RoutedTokens routed;
  routed.routing = moe_route(logits,
                             {.top_k = options.top_k,
                              .scoring = parse_moe_scoring(r.scoring_func, "MoERouter"),
                              .normalize = r.norm_topk_prob,
                              .scale = r.routed_scaling_factor,
                              .groups = r.n_group,
                              .top_groups = r.topk_group},
                             bias);
  routed.permutation = moe_sort(routed.routing.experts, options.num_experts);
  if (x.numel() > 0) report(logits, routed, ctx);
  return routed;
}

void MoERouterModule::report(const Tensor& logits, const RoutedTokens& routed, Context& ctx) const {
  const MoERoutingOptions& r = options.routing;
  RoutingRecord record{.router = this, .offsets = routed.permutation.offsets};
  const auto add = [&](const char* name, const Tensor& loss) {
    ctx.aux_losses.push_back(loss);
    record.aux_losses[name] = detach(loss);
  };
  if (ctx.rng && r.load_balancing_coefficient > 0)
    add("load_balancing_loss",
        load_balancing_loss(routed.routing, routed.permutation) * r.load_balancing_coefficient);
  if (ctx.rng && r.z_loss_coefficient > 0)
    add("router_z_loss", router_z_loss(logits) * r.z_loss_coefficient);
  if (ctx.metrics && logits.device() != meta) ctx.metrics->routing.push_back(std::move(record));
}

Tensor MoERouterModule::forward(const Tensor& x, Context& ctx) {
  const MoERouting routing = route(x, ctx).routing;
  return cast(scatter_add(zeros_like(routing.scores), -1, routing.experts, routing.weights),
              x.dtype());
}

Tensor load_balancing_loss(const MoERouting& routing, const MoEPermutation& permutation) {
  const int64_t experts = routing.scores.size(-1);
  const Tensor& offsets = permutation.offsets;
  const Tensor counts = slice(offsets, 0, 1) - slice(offsets, 0, 0, experts);
  const Tensor shares =
      cast(counts, routing.scores.dtype()) * (1 / double(routing.experts.numel()));
  const Tensor scores = reshape(routing.scores, {-1, experts});
  const Tensor p = mean(scores / (sum(scores, -1, {.keepdim = true}) + kEpsilon), 0);
  return sum(shares * p) * double(experts);
}

Tensor router_z_loss(const Tensor& logits) { return mean(square(logsumexp(logits, -1))); }

Ref<MoERouterModule> MoERouter(const MoERouterOptions& options) {
  return make<MoERouterModule>(options);
}
Ref<MoERouterModule> MoERouter(int64_t embed_dim, int64_t num_experts, MoERouterOptions options) {
  options.embed_dim = embed_dim;
  options.num_experts = num_experts;
  return MoERouter(options);
}

}  // namespace olm::nn
