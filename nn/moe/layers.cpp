#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/moe_combine.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/moe.h>
#include <olm/nn/moe/spread_internal.h>

namespace olm::nn {

namespace {

std::vector<Ref<Module>> made(int64_t count, const MoEFeedForwardBase::ExpertFactory& expert) {
  std::vector<Ref<Module>> modules;
  for (int64_t i = 0; i < count; ++i) modules.push_back(expert());
  return modules;
}

template <class Options>
MoEOptions mixture_of(const Options& o) {
  return {.embed_dim = o.embed_dim,
          .num_experts = o.num_experts,
          .num_shared_experts = o.num_shared_experts,
          .top_k = o.top_k,
          .routing = o.routing};
}

MoERouterOptions router_of(const MoEOptions& o) {
  return {.embed_dim = o.embed_dim,
          .num_experts = o.num_experts,
          .top_k = o.top_k,
          .routing = o.routing};
}

/// What a mixture has of its options, all within their ranges.
template <class Options>
MoEOptions checked(const char* layer, const Options& o) {
  check_fields(mixture_of(o), layer);
  return mixture_of(o);
}

template <class Options>
Options with_width(Options options, int64_t embed_dim) {
  options.embed_dim = embed_dim;
  return options;
}

MoEFeedForwardBase::ExpertFactory classic_expert(const ClassicMoEFFNOptions& o) {
  return [o]() -> Ref<Module> {
    const auto expert = ClassicFFN({.embed_dim = o.embed_dim,
                                    .hidden_dim = o.hidden_dim,
                                    .activation = o.activation,
                                    .dropout = o.dropout,
                                    .bias = o.bias});
    if (o.activation_fn) expert->act.replace(o.activation_fn);
    return expert;
  };
}

GatedFFNOptions gated_expert(const GatedMoEFFNOptions& o) {
  return {.embed_dim = o.embed_dim,
          .hidden_dim = o.hidden_dim,
          .dropout = o.dropout,
          .bias = o.bias,
          .ff_multiplier = o.ff_multiplier};
}

}  // namespace

MoEFeedForwardBase::MoEFeedForwardBase(const MoEOptions& o, const ExpertFactory& expert)
    : MoEFeedForwardBase{checked("MoEFeedForward", o),  // in braces: checked before any is made
                         made(o.num_experts, expert), made(o.num_shared_experts, expert)} {}

MoEFeedForwardBase::MoEFeedForwardBase(const MoEOptions& o, std::vector<Ref<Module>> experts,
                                       std::vector<Ref<Module>> shared_experts)
    : mixture(checked("MoEFeedForward", o)),
      router(this, "router", MoERouter(router_of(o))),
      experts(this, "experts", std::move(experts)),
      shared_experts(this, "shared_experts", std::move(shared_experts)) {
  require(int64_t(this->experts.size()) == o.num_experts &&
              int64_t(this->shared_experts.size()) == o.num_shared_experts,
          "MoEFeedForward: wanted ", o.num_experts, " experts and ", o.num_shared_experts,
          " shared ones, got ", this->experts.size(), " and ", this->shared_experts.size());
}

Tensor MoEFeedForwardBase::run_shared(const Tensor& x, Context& ctx) {
  Tensor total;
  for (size_t i = 0; i < shared_experts.size(); ++i) {
    const Ref<Module> expert = shared_experts.at(i);  // held while it runs: it may be replaced
    const Tensor y = expert(x, ctx);
    total = total.defined() ? total + y : y;
  }
  return total;
}

Tensor MoEFeedForwardBase::forward(const Tensor& x, Context& ctx) {
  require(x.rank() >= 1 && x.size(-1) == mixture.embed_dim, type_name(), ": wanted x [..., ",
          mixture.embed_dim, "], got ", x.shape());
  MoERouterModule* routes = router.typed();
  require(routes != nullptr, type_name(), ": wanted a MoERouter as router, it is a ",
          router.module()->type_name());
  const Ref<Module> held = router.module();
  const Tensor shared = run_shared(x, ctx);
  const RoutedTokens routed = routes->route(x, ctx);
  const Tensor rows = moe_permute(x, routed.permutation);
  const Tensor& offsets = routed.permutation.offsets;
  const Tensor y = spread ? run_spread(experts, *spread, rows, offsets, ctx)
                          : run_experts(experts, rows, offsets, ctx);
  return moe_combine(y, routed.routing.weights, routed.permutation, shared);
}

Tensors MoEFeedForwardBase::own_leaves() {
  Tensors leaves;
  if (!spread) return leaves;
  spread->update_leaves();
  for (const auto list : ExpertParameters::kLists)
    leaves.insert(leaves.end(), (spread->leaves.*list).begin(), (spread->leaves.*list).end());
  return leaves;
}

double MoEFeedForwardBase::share_of_tokens(const ChildSlot& child) {
  if (!child.name().starts_with("experts.")) return 1;
  return double(mixture.top_k) / double(mixture.num_experts);
}

Ref<MoEFeedForwardBase> MoEFeedForward(const MoEOptions& options,
                                       const MoEFeedForwardBase::ExpertFactory& expert) {
  return make<MoEFeedForwardBase>(options, expert);
}

Ref<Module> make_moe_feed_forward(const Json& json, const DescribedChildren& children) {
  MoEOptions options;
  from_json(json, options, "MoEFeedForward");
  std::vector<Ref<Module>> experts, shared;
  Ref<Module> router;
  for (const auto& [name, module] : children) {
    if (name == "router")
      router = module;
    else if (name == "experts." + std::to_string(experts.size()))
      experts.push_back(module);
    else if (name == "shared_experts." + std::to_string(shared.size()))
      shared.push_back(module);
    else
      fail("MoEFeedForward: wanted children router, experts.0, … and shared_experts.0, …, got ",
           name);
  }
  const auto layer = make<MoEFeedForwardBase>(options, std::move(experts), std::move(shared));
  if (router) layer->router.replace(router);
  return layer;
}

template <class Options>
MoEFFNBase<Options>::MoEFFNBase(const char* layer, const Options& o, const ExpertFactory& expert)
    : MoEFeedForwardBase(checked(layer, o), expert), options(o), layer_(layer) {}
template class MoEFFNBase<ClassicMoEFFNOptions>;
template class MoEFFNBase<GatedMoEFFNOptions>;

ClassicMoEFFNModule::ClassicMoEFFNModule(const ClassicMoEFFNOptions& o)
    : MoEFFNBase("ClassicMoEFFN", o, classic_expert(o)) {
  options.activation_fn = {};  // a child of the experts
}
SwiGLUMoEFFNModule::SwiGLUMoEFFNModule(const SwiGLUMoEFFNOptions& o)
    : MoEFFNBase("SwiGLUMoEFFN", o, [&] { return SwiGLUFFN(gated_expert(o)); }) {}
GeGLUMoEFFNModule::GeGLUMoEFFNModule(const GeGLUMoEFFNOptions& o)
    : MoEFFNBase("GeGLUMoEFFN", o, [&] { return GeGLUFFN(gated_expert(o)); }) {}

Ref<ClassicMoEFFNModule> ClassicMoEFFN(const ClassicMoEFFNOptions& options) {
  return make<ClassicMoEFFNModule>(options);
}
Ref<ClassicMoEFFNModule> ClassicMoEFFN(int64_t embed_dim, ClassicMoEFFNOptions options) {
  return ClassicMoEFFN(with_width(std::move(options), embed_dim));
}
Ref<SwiGLUMoEFFNModule> SwiGLUMoEFFN(const SwiGLUMoEFFNOptions& options) {
  return make<SwiGLUMoEFFNModule>(options);
}
Ref<SwiGLUMoEFFNModule> SwiGLUMoEFFN(int64_t embed_dim, SwiGLUMoEFFNOptions options) {
  return SwiGLUMoEFFN(with_width(std::move(options), embed_dim));
}
Ref<GeGLUMoEFFNModule> GeGLUMoEFFN(const GeGLUMoEFFNOptions& options) {
  return make<GeGLUMoEFFNModule>(options);
}
Ref<GeGLUMoEFFNModule> GeGLUMoEFFN(int64_t embed_dim, GeGLUMoEFFNOptions options) {
  return GeGLUMoEFFN(with_width(std::move(options), embed_dim));
}

}  // namespace olm::nn
