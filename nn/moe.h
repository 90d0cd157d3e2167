#pragma once
// Mixtures of experts: feed-forward networks of which each token uses the few that a router chooses
// for it.
//
//   SwiGLUMoEFFN({.embed_dim = 768, .num_experts = 8, .top_k = 2})            // as in OLM, Mixtral
//   SwiGLUMoEFFN({.embed_dim = 7168, .num_experts = 256, .num_shared_experts = 1, .top_k = 8,
//                 .hidden_dim = 2048, .bias = false,                          // DeepSeek-V3
//                 .routing = {.scoring_func = "sigmoid", .routed_scaling_factor = 2.5,
//                             .n_group = 8, .topk_group = 4, .use_expert_bias = true}})
//
// It goes where a feed-forward network does: Residual(Block({RMSNorm(d), SwiGLUMoEFFN({…})})).
// While training (ctx.rng set) balance losses go into ctx.aux_losses, which Module::loss adds;
// where ctx.metrics is set, what each router did goes there. The Trainer sets it, reports the loads
// and updates expert biases. A loop by hand:
//
//   Metrics metrics;
//   Context ctx{.rng = &rng, .metrics = &metrics};
//   backward(model->loss(batch.inputs, batch.targets, ctx));
//   if (!optimizer.step().skipped) update_expert_biases(*model, metrics);
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <olm/autograd/ops/moe_permute.h>
#include <olm/autograd/ops/moe_route.h>
#include <olm/nn/linear.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// How a router weighs and balances its experts. The defaults are OLM's.
struct MoERoutingOptions {
  std::string scoring_func = "softmax";  ///< or "sigmoid"
  bool norm_topk_prob = true;            ///< the weights of a token add up to the scaling factor
  double routed_scaling_factor = 1;      ///< a factor of all weights
  /// Experts form n_group groups of neighbours; a token chooses from the topk_group best. See
  /// moe_route().
  int64_t n_group = 1, topk_group = 1;
  double load_balancing_coefficient = 0;  ///< of load_balancing_loss()
  double z_loss_coefficient = 0;          ///< of router_z_loss()
  /// A buffer `expert_bias`, from 0, is added to the scores for the choice alone, and moved by
  /// update_expert_biases(). Wang et al. 2024, arXiv:2408.15664.
  bool use_expert_bias = false;
  double bias_update_rate = 0.001;  ///< how far; 0 leaves the bias as it is loaded
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
  int64_t embed_dim = 0;
  int64_t num_experts = 8, top_k = 2;
  MoERoutingOptions routing = {};
  void fields(auto& v) {
    v("embed_dim", embed_dim, {.min = 1});
    v("num_experts", num_experts, {.min = 1, .max = kMaxExperts});
    v("top_k", top_k, {.min = 1});
    routing.fields(v);
  }
};

/// Where tokens go: their experts with weights and scores, and the order of rows by expert.
struct RoutedTokens {
  MoERouting routing;
  MoEPermutation permutation;
};

/// Chooses top_k of num_experts for each token by the scores of logits = gate(x), which are
/// computed in acc_dtype(x); see moe_route() for choice and weights.
///   x: [..., embed_dim]
/// Keys: gate.weight [E,D]; with use_expert_bias the buffer expert_bias [E]. Throws for options out
/// of range, top_k above num_experts or above the experts of topk_group groups, and groups that do
/// not divide the experts. Shazeer et al. 2017, arXiv:1701.06538.
class OLM_API MoERouterModule final : public Layer<MoERouterOptions> {
 public:
  explicit MoERouterModule(const MoERouterOptions& o);
  /// The weights as rows over all experts, 0 for those that were not chosen: [..., E].
  Tensor forward(const Tensor& x, Context& ctx) override;
  /// Routes, adds balance losses to ctx.aux_losses while training, and reports to ctx.metrics.
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

/// E · Σ_i f_i · p_i over experts i, which is 1 where all are used alike:
///   f_i: the share of all choices that fell on i, without gradient
///   p_i: the mean over tokens of i's score, the scores of a token divided by their sum
/// Equation 4 of Fedus et al. 2021, arXiv:2101.03961, for top_k choices. transformers' Mixtral
/// gives top_k times that. Scores are [..., E] as moe_route() gives them.
OLM_API Tensor load_balancing_loss(const MoERouting& routing, const MoEPermutation& permutation);
/// The mean over tokens of logsumexp(logits)², which keeps logits [..., E] small. Equation 5 of
/// Zoph et al. 2022, arXiv:2202.08906.
OLM_API Tensor router_z_loss(const Tensor& logits);

/// Of a mixture whose experts are given.
struct MoEOptions {
  int64_t embed_dim = 0;
  int64_t num_experts = 8, num_shared_experts = 0, top_k = 2;
  MoERoutingOptions routing = {};
  void fields(auto& v) {
    v("embed_dim", embed_dim, {.min = 1});
    v("num_experts", num_experts, {.min = 1, .max = kMaxExperts});
    v("num_shared_experts", num_shared_experts, {.min = 0, .max = kMaxExperts});
    v("top_k", top_k, {.min = 1});
    routing.fields(v);
  }
};

/// Base of the mixtures, and one of experts of any class:
///   y = Σ_k weight_k · expert_k(x) over the top_k experts that the router chose for a token
///     + Σ_j shared_expert_j(x)
///   x: [..., embed_dim]    y: like x
/// Every choice is computed (no capacity, no dropped tokens): rows are sorted by expert, and
/// experts that are equal ClassicFFN or GatedFFN are computed together by grouped_linear().
/// Others run one by one on [rows, embed_dim] of the tokens that chose them. An expert that no
/// token chose does not run, and its parameters get no gradient. Expert dropout acts before
/// weighting. Keys: router.…, experts.{i}.…, shared_experts.{j}.…. Throws for what a router throws
/// for, a number of experts other than the options say, and x of another width.
class OLM_API MoEFeedForwardBase : public Module {
 public:
  using ExpertFactory = std::function<Ref<Module>()>;
  /// Experts and shared experts are made by the factory.
  MoEFeedForwardBase(const MoEOptions& o, const ExpertFactory& expert);
  MoEFeedForwardBase(const MoEOptions& o, std::vector<Ref<Module>> experts,
                     std::vector<Ref<Module>> shared_experts);
  Tensor forward(const Tensor& x, Context& ctx) override;
  std::string type_name() const override { return "MoEFeedForward"; }
  void visit_options(FieldVisitor& v) override { mixture.fields(v); }
  void visit_default_options(FieldVisitor& v) override { MoEOptions().fields(v); }
  bool describes_children() const override { return true; }
  double share_of_tokens(const ChildSlot& child) override;
  MoEOptions mixture;
  Child<MoERouterModule> router;
  Children experts, shared_experts;

 private:
  Tensor run_shared(const Tensor& x, Context& ctx);
};
/// A mixture of what `expert` makes: MoEFeedForward({.embed_dim = d}, [&] { return MyExpert(d); }).
OLM_API Ref<MoEFeedForwardBase> MoEFeedForward(const MoEOptions& options,
                                               const MoEFeedForwardBase::ExpertFactory& expert);

struct ClassicMoEFFNOptions {
  int64_t embed_dim = 0;
  int64_t num_experts = 8, num_shared_experts = 0, top_k = 2;
  std::optional<int64_t> hidden_dim = {};  ///< of each expert; 4 · embed_dim where empty
  std::string activation = "gelu";         ///< a name of activations()
  Ref<Module> activation_fn = {};          ///< in its place, the same for all experts
  double dropout = 0;                      ///< of each expert
  bool bias = true;                        ///< of the experts
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

struct GatedMoEFFNOptions {
  int64_t embed_dim = 0;
  int64_t num_experts = 8, num_shared_experts = 0, top_k = 2;
  std::optional<int64_t> hidden_dim =
      {};              ///< of each expert; ff_multiplier · embed_dim where empty
  double dropout = 0;  ///< of each expert
  bool bias = true;    ///< of the experts
  double ff_multiplier = 2.5;
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

/// A mixture whose options make its experts.
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

/// The maker that layers() wants for MoEFeedForward, whose description holds its children.
OLM_API Ref<Module> make_moe_feed_forward(const Json& options, const DescribedChildren& children);

/// How the choices of some forward passes fell on the experts of one router.
struct OLM_API ExpertLoad {
  std::string router = {};                        ///< its path in the model
  std::vector<int64_t> tokens = {};               ///< how often each expert was chosen
  std::map<std::string, double> aux_losses = {};  ///< by name, the mean over tokens
  /// -Σ f ln f / ln E of the shares f: 1 where all experts are used alike, 0 where one has it all.
  double entropy() const;
  /// Experts that no token chose.
  int64_t idle_experts() const;
  /// The largest share times E: 1 where all are used alike.
  double imbalance() const;
};

/// The loads of the model's routers in the order of the model, of those that reported.
OLM_API std::vector<ExpertLoad> expert_loads(Module& model, const Metrics& metrics);
/// Numbers of all routers by name: the mean of `expert_entropy`, the largest `expert_imbalance`,
/// the sum of `idle_experts` and of each auxiliary loss. Empty without routers.
OLM_API std::map<std::string, double> routing_totals(const std::vector<ExpertLoad>& loads);

/// After a step, for every router with use_expert_bias that is not frozen:
///   expert_bias_i += bias_update_rate · sign(mean load - load_i)
/// with the loads of the passes that `metrics` saw. DeepSeek-V3, arXiv:2412.19437; Wang et al.
/// 2024, arXiv:2408.15664.
OLM_API void update_expert_biases(Module& model, const Metrics& metrics);

}  // namespace olm::nn
