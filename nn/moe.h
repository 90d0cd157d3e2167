#pragma once
// Mixture of experts (MoE): several FFNs (the experts), of which each token uses the few that a
// router chooses for it.
//
//   SwiGLUMoEFFN({.embed_dim = 768, .num_experts = 8, .top_k = 2})            // as in OLM, Mixtral
//   SwiGLUMoEFFN({.embed_dim = 7168, .num_experts = 256, .num_shared_experts = 1, .top_k = 8,
//                 .hidden_dim = 2048, .bias = false,                          // DeepSeek-V3
//                 .routing = {.scoring_func = "sigmoid", .routed_scaling_factor = 2.5,
//                             .n_group = 8, .topk_group = 4, .use_expert_bias = true}})
//
// It takes the place of an FFN: Residual(Block({RMSNorm(d), SwiGLUMoEFFN({…})})). In training
// (ctx.rng set) it adds balance losses to ctx.aux_losses, which Module::loss adds to the loss.
// expert_parallel.h spreads experts over ranks.
// Where ctx.metrics is set, each router reports the load of its experts there. The Trainer sets it,
// logs the loads and updates expert biases; a training loop of your own does it like this:
//
//   Metrics metrics;
//   Context ctx{.rng = &rng, .metrics = &metrics};
//   backward(model->loss(batch.inputs, batch.targets, ctx));
//   if (!optimizer.step().skipped) update_expert_biases(*model, metrics);
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <olm/autograd/ops/moe_permute.h>
#include <olm/autograd/ops/moe_route.h>
#include <olm/nn/linear.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// How a router weights and balances experts. The defaults are OpenLanguageModel's.
struct MoERoutingOptions {
  std::string scoring_func = "softmax";  ///< softmax over the experts, or sigmoid of each
  bool norm_topk_prob = true;            ///< weights are divided by their sum
  double routed_scaling_factor = 1;      ///< factor of all weights
  /// Experts form n_group equal groups of neighbours; a token chooses among those of its topk_group
  /// best groups. See moe_route().
  int64_t n_group = 1, topk_group = 1;
  double load_balancing_coefficient = 0;  ///< factor of load_balancing_loss()
  double z_loss_coefficient = 0;          ///< factor of router_z_loss()
  /// A buffer `expert_bias`, initially 0, is added to the scores for the choice alone, and adjusted
  /// by update_expert_biases(). Wang et al. 2024, arXiv:2408.15664.
  bool use_expert_bias = false;
  double bias_update_rate = 0.001;  ///< change per step; 0 keeps the bias as it is
  void fields(auto& v) {
    v("scoring_func", scoring_func, {.one_of = {"softmax", "sigmoid"}});
    v("norm_topk_prob", norm_topk_prob);
    v("routed_scaling_factor", routed_scaling_factor, {.above = 0});
    v("n_group", n_group, {.min = 1});
    v("topk_group", topk_group, {.min = 1});
    v("load_balancing_coefficient", load_balancing_coefficient, {.min = 0});
    v("z_loss_coefficient", z_loss_coefficient, {.min = 0});
    v("use_expert_bias", use_expert_bias);
    v("bias_update_rate", bias_update_rate, {.min = 0});
  }
};

constexpr int64_t kMaxExperts = 100000;  ///< of a layer

struct MoERouterOptions {
  int64_t embed_dim = 0;    ///< D, the width of x
  int64_t num_experts = 8;  ///< E
  int64_t top_k = 2;        ///< experts that a token uses
  MoERoutingOptions routing = {};
  void fields(auto& v) {
    v("embed_dim", embed_dim, {.min = 1});
    v("num_experts", num_experts, {.min = 1, .max = kMaxExperts});
    v("top_k", top_k, {.min = 1});
    routing.fields(v);
  }
};

/// The experts of all tokens, with weights and scores, and the order of rows by expert.
struct RoutedTokens {
  MoERouting routing;
  MoEPermutation permutation;
};

/// Chooses top_k of num_experts for each token by the scores of logits = gate(x), computed in
/// acc_dtype(x); see moe_route() for scores, choice and weights.
///   x: [..., embed_dim]
/// Keys: gate.weight [E,D]; with use_expert_bias the buffer expert_bias [E]. Throws for options out
/// of range, where top_k exceeds the experts or those of topk_group groups, and where n_group does
/// not divide num_experts. Shazeer et al. 2017, arXiv:1701.06538.
class OLM_API MoERouterModule final : public Layer<MoERouterOptions> {
 public:
  explicit MoERouterModule(const MoERouterOptions& o);
  /// The weights of all experts [..., E], 0 for those that were not chosen, in x's dtype.
  Tensor forward(const Tensor& x, Context& ctx) override;
  /// Routes; in training adds balance losses to ctx.aux_losses; reports to ctx.metrics. Scores and
  /// weights stay in acc_dtype(x).
  RoutedTokens route(const Tensor& x, Context& ctx);
  std::string type_name() const override { return "MoERouter"; }
  Child<LinearModule> gate;
  std::optional<Buffer> expert_bias;

 private:
  void report(const Tensor& logits, const RoutedTokens& routed, Context& ctx) const;
};
OLM_API Ref<MoERouterModule> MoERouter(const MoERouterOptions& options);
OLM_API Ref<MoERouterModule> MoERouter(int64_t embed_dim, int64_t num_experts,
                                       MoERouterOptions options = {});

/// E · Σ_i f_i · p_i over experts i, which is 1 where the load is even:
///   f_i: the fraction of all choices that fell on expert i, without gradient
///   p_i: the mean over tokens of expert i's score, the scores of a token divided by their sum
/// Equation 4 of Fedus et al. 2021, arXiv:2101.03961, for top_k choices; Mixtral's loss in
/// transformers is top_k times as large.
OLM_API Tensor load_balancing_loss(const MoERouting& routing, const MoEPermutation& permutation);
/// The mean over tokens of logsumexp(logits)², which keeps logits [..., E] small. Equation 5 of
/// Zoph et al. 2022, arXiv:2202.08906.
OLM_API Tensor router_z_loss(const Tensor& logits);

/// Options of a mixture whose experts are given.
struct MoEOptions {
  int64_t embed_dim = 0;           ///< D, the width of x
  int64_t num_experts = 8;         ///< E, without shared ones
  int64_t num_shared_experts = 0;  ///< experts that every token uses, with weight 1
  int64_t top_k = 2;               ///< experts that the router chooses for a token
  MoERoutingOptions routing = {};
  void fields(auto& v) {
    v("embed_dim", embed_dim, {.min = 1});
    v("num_experts", num_experts, {.min = 1, .max = kMaxExperts});
    v("num_shared_experts", num_shared_experts, {.min = 0, .max = kMaxExperts});
    v("top_k", top_k, {.min = 1});
    routing.fields(v);
  }
};

struct SpreadExperts;  // see moe/spread_internal.h

/// Base of the mixtures of experts; as a layer of its own, a mixture of experts of any class:
///   y = Σ_k weight_k · expert_k(x) over the top_k experts that the router chose for a token
///     + Σ_j shared_expert_j(x)
///   x: [..., embed_dim]    y: like x
/// There is no capacity limit: every choice is computed. Rows are sorted by expert; experts that
/// are all ClassicFFN, or all GatedFFN, of the same options are computed together by
/// grouped_linear(), others one by one on the [rows, embed_dim] of the tokens that chose them. An
/// expert that no token chose does not run, and its parameters get no gradient, or zeros where the
/// loads are on a card, which the host does not ask. Dropout of experts acts before weighting.
/// Keys: router.…, experts.{i}.…, shared_experts.{j}.…. Throws where the router does, where the
/// number of experts is not that of the options, and for x of another width.
class OLM_API MoEFeedForwardBase : public Module {
 public:
  using ExpertFactory = std::function<Ref<Module>()>;
  /// The factory makes all experts, shared ones too.
  MoEFeedForwardBase(const MoEOptions& o, const ExpertFactory& expert);
  MoEFeedForwardBase(const MoEOptions& o, std::vector<Ref<Module>> experts,
                     std::vector<Ref<Module>> shared_experts);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "MoEFeedForward"; }
  void visit_options(FieldVisitor& v) override { mixture.fields(v); }
  void visit_default_options(FieldVisitor& v) override { MoEOptions().fields(v); }
  bool describes_children() const override { return true; }
  double share_of_tokens(const ChildSlot& child) override;
  Tensors own_leaves() override;
  MoEOptions mixture;
  Child<MoERouterModule> router;
  Children experts, shared_experts;
  /// Set by spread_experts(): other ranks compute some of the experts. Null where all are here.
  std::shared_ptr<SpreadExperts> spread;

 private:
  Tensor run_shared(const Tensor& x, Context& ctx);
};
/// A mixture of what `expert` makes: MoEFeedForward({.embed_dim = d}, [&] { return MyExpert(d); }).
OLM_API Ref<MoEFeedForwardBase> MoEFeedForward(const MoEOptions& options,
                                               const MoEFeedForwardBase::ExpertFactory& expert);

/// Options of MoEOptions, and those of each expert.
struct ClassicMoEFFNOptions {
  int64_t embed_dim = 0;
  int64_t num_experts = 8, num_shared_experts = 0, top_k = 2;
  std::optional<int64_t> hidden_dim = {};  ///< 4 · embed_dim if empty
  std::string activation = "gelu";         ///< a name in activations()
  Ref<Module> activation_fn = {};          ///< instead of `activation`; all experts share it
  double dropout = 0;                      ///< probability, on the output of each expert
  bool bias = true;                        ///< in up_proj and down_proj
  MoERoutingOptions routing = {};
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_experts", num_experts);
    v("num_shared_experts", num_shared_experts);
    v("top_k", top_k);
    v("hidden_dim", hidden_dim);
    v("activation", activation);
    v("dropout", dropout);
    v("bias", bias);
    routing.fields(v);
  }
};

/// Options of MoEOptions, and those of each expert.
struct GatedMoEFFNOptions {
  int64_t embed_dim = 0;
  int64_t num_experts = 8, num_shared_experts = 0, top_k = 2;
  std::optional<int64_t> hidden_dim = {};  ///< ff_multiplier · embed_dim, rounded down, if empty
  double dropout = 0;                      ///< probability, on the output of each expert
  bool bias = true;                        ///< in up_proj and down_proj
  double ff_multiplier = 2.5;              ///< hidden_dim over embed_dim; unused with hidden_dim
  MoERoutingOptions routing = {};
  void fields(auto& v) {
    v("embed_dim", embed_dim);
    v("num_experts", num_experts);
    v("num_shared_experts", num_shared_experts);
    v("top_k", top_k);
    v("hidden_dim", hidden_dim);
    v("dropout", dropout);
    v("bias", bias);
    v("ff_multiplier", ff_multiplier);
    routing.fields(v);
  }
};

/// Base of mixtures that make their experts from their options.
template <class Options>
class OLM_API MoEFFNBase : public MoEFeedForwardBase {
 public:
  MoEFFNBase(const char* layer, const Options& o, const ExpertFactory& expert);
  void visit_options(FieldVisitor& v) override { options.fields(v); }
  void visit_default_options(FieldVisitor& v) override { Options().fields(v); }
  std::string type_name() const override { return layer_; }
  bool describes_children() const override { return false; }
  Options options;

 private:
  const char* layer_;
};

/// A mixture of ClassicFFN.
class OLM_API ClassicMoEFFNModule final : public MoEFFNBase<ClassicMoEFFNOptions> {
 public:
  explicit ClassicMoEFFNModule(const ClassicMoEFFNOptions& o);
};
OLM_API Ref<ClassicMoEFFNModule> ClassicMoEFFN(const ClassicMoEFFNOptions& options);
OLM_API Ref<ClassicMoEFFNModule> ClassicMoEFFN(int64_t embed_dim,
                                               ClassicMoEFFNOptions options = {});

using SwiGLUMoEFFNOptions = GatedMoEFFNOptions;
/// A mixture of SwiGLUFFN, as in Mixtral (Jiang et al. 2024, arXiv:2401.04088) and DeepSeek-V3.
class OLM_API SwiGLUMoEFFNModule final : public MoEFFNBase<SwiGLUMoEFFNOptions> {
 public:
  explicit SwiGLUMoEFFNModule(const SwiGLUMoEFFNOptions& o);
};
OLM_API Ref<SwiGLUMoEFFNModule> SwiGLUMoEFFN(const SwiGLUMoEFFNOptions& options);
OLM_API Ref<SwiGLUMoEFFNModule> SwiGLUMoEFFN(int64_t embed_dim, SwiGLUMoEFFNOptions options = {});

using GeGLUMoEFFNOptions = GatedMoEFFNOptions;
/// A mixture of GeGLUFFN.
class OLM_API GeGLUMoEFFNModule final : public MoEFFNBase<GeGLUMoEFFNOptions> {
 public:
  explicit GeGLUMoEFFNModule(const GeGLUMoEFFNOptions& o);
};
OLM_API Ref<GeGLUMoEFFNModule> GeGLUMoEFFN(const GeGLUMoEFFNOptions& options);
OLM_API Ref<GeGLUMoEFFNModule> GeGLUMoEFFN(int64_t embed_dim, GeGLUMoEFFNOptions options = {});

/// The entry of layers() for MoEFeedForward, whose description lists its experts.
OLM_API Ref<Module> make_moe_feed_forward(const Json& options, const DescribedChildren& children);

/// The load of one router's experts over some forward passes.
struct OLM_API ExpertLoad {
  std::string router = {};                        ///< its path in the model
  std::vector<int64_t> tokens = {};               ///< how often each expert was chosen
  std::map<std::string, double> aux_losses = {};  ///< by name, the mean over tokens
  /// -Σ f ln f / ln E with f the fraction of choices of each expert: 1 for an even load, 0 where
  /// one expert has it all.
  double entropy() const;
  /// Experts that no token chose.
  int64_t idle_experts() const;
  /// The largest fraction times E: 1 for an even load.
  double imbalance() const;
};

/// The records with their tensors on the host, which two copies bring however many they are.
OLM_API std::vector<RoutingRecord> on_host(std::vector<RoutingRecord> records);
/// The loads of those routers that reported, in the order of the model.
OLM_API std::vector<ExpertLoad> expert_loads(Module& model, const Metrics& metrics);
/// Over all routers, by name: the mean `expert_entropy`, the largest `expert_imbalance`, the sum of
/// `idle_experts` and of each auxiliary loss. Empty without routers.
OLM_API std::map<std::string, double> routing_totals(const std::vector<ExpertLoad>& loads);

/// To be called after a step. For every router with use_expert_bias that is not frozen:
///   expert_bias_i += bias_update_rate · sign(mean load - load_i)
/// where load_i counts the choices of expert i in the passes that `metrics` saw. DeepSeek-V3,
/// arXiv:2412.19437; Wang et al. 2024, arXiv:2408.15664.
OLM_API void update_expert_biases(Module& model, const Metrics& metrics);

}  // namespace olm::nn
