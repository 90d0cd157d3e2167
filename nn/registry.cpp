#include <olm/nn/registry.h>

#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/linear.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/structure.h>

namespace olm::nn {

namespace {

std::vector<Ref<Module>> modules_of(const char* type, const std::string& list,
                                    const DescribedChildren& children) {
  std::vector<Ref<Module>> modules;
  for (const auto& [name, module] : children) {
    const std::string wanted = list + "." + std::to_string(modules.size());
    require(name == wanted, type, ": wanted child ", wanted, ", got ", name);
    modules.push_back(module);
  }
  return modules;
}

Ref<Module> only_block(const char* type, const DescribedChildren& children) {
  require(children.size() == 1 && children[0].first == "block", type,
          ": wanted one child called block, got ", children.size(), " children");
  return children[0].second;
}

Merge merge_by_name(const std::string& name) {
  if (name == "concat") return merge::cat();
  for (Merge merge : {merge::sum(), merge::mean(), merge::cat()})
    if (merge.name == name) return merge;
  fail("Parallel: unknown merge \"", name, "\"; known are sum, mean, cat (or concat)");
}

Ref<Module> make_parallel(const Json& json, DescribedChildren children) {
  ParallelOptions options;
  from_json(json, options, "Parallel");
  return Parallel(modules_of("Parallel", "blocks", children), merge_by_name(options.merge),
                  options.dim);
}

/// A TransformerBlock is described as the Block that it is.
Ref<Module> make_transformer_block(const Json& json, DescribedChildren children) {
  require(children.empty(), "TransformerBlock: takes no children, got ", children.size());
  TransformerBlockOptions options;
  from_json(json, options, "TransformerBlock");
  return TransformerBlock(options);
}

/// A maker of what has no options; others throw.
template <class Make>
std::pair<const std::string, LayerMaker> without_options(const char* type, Make make_module) {
  return {type, [type, make_module](const Json& json, DescribedChildren children) -> Ref<Module> {
            require(json.size() == 0, type, ": takes no options, got ", json.dump());
            return make_module(children);
          }};
}

template <class M>
std::pair<const std::string, LayerMaker> entry(const char* type) {
  return {type, layer_maker<M>(type)};
}

std::pair<const std::string, LayerMaker> entry(const char* type, Ref<ElementwiseModule> (*make)()) {
  return {type, make};
}

std::map<std::string, LayerMaker> structures() {
  return {
      without_options("Block",
                      [](const DescribedChildren& children) -> Ref<Module> {
                        return Block(modules_of("Block", "blocks", children));
                      }),
      {"Parallel", {make_parallel, to_json(ParallelOptions())}},
      without_options("Recompute",
                      [](const DescribedChildren& children) -> Ref<Module> {
                        return Recompute(only_block("Recompute", children));
                      }),
      without_options("Repeat",
                      [](const DescribedChildren& children) -> Ref<Module> {
                        return make<RepeatModule>(modules_of("Repeat", "stack", children));
                      }),
      without_options("Residual",
                      [](const DescribedChildren& children) -> Ref<Module> {
                        return Residual(only_block("Residual", children));
                      }),
  };
}

std::pair<const std::string, LayerMaker> entry(const RotaryKind& kind) {
  return {kind.name, [kind](const Json& json, DescribedChildren) -> Ref<Module> {
            RotaryOptions options;
            from_json(json, options, kind.name);
            return Rotary(kind, options);
          }};
}

std::map<std::string, LayerMaker> all_built_in() {
  std::map<std::string, LayerMaker> table = structures();
  table.merge(std::map<std::string, LayerMaker>{
      entry<ALiBiPositionalBiasModule>("ALiBiPositionalBias"),
      entry<AbsolutePositionalEmbeddingModule>("AbsolutePositionalEmbedding"),
      entry<ClassicFFNModule>("ClassicFFN"),
      entry<ClassicMoEFFNModule>("ClassicMoEFFN"),
      entry<DropoutModule>("Dropout"),
      entry<ELUModule>("ELU"),
      entry<EmbeddingModule>("Embedding"),
      entry("GELU", GELU),
      entry("GELUTanh", GELUTanh),
      entry<GLUModule>("GLU"),
      entry("GeGLU", GeGLU),
      entry<GatedFFNModule>("GatedFFN"),
      {"GeGLUFFN", gated_ffn_maker("GeGLUFFN", "geglu")},
      entry("GeGLUTanh", GeGLUTanh),
      entry<GeGLUMoEFFNModule>("GeGLUMoEFFN"),
      entry("Identity", Identity),
      entry<LayerNormModule>("LayerNorm"),
      entry<LeakyReLUModule>("LeakyReLU"),
      entry("LiGLU", LiGLU),
      entry<LinearModule>("Linear"),
      entry("Mish", Mish),
      {"MoEFeedForward", make_moe_feed_forward},
      entry<MoERouterModule>("MoERouter"),
      entry<OutputHeadModule>("OutputHead"),
      entry<PReLUModule>("PReLU"),
      entry("QuickGELU", QuickGELU),
      entry<RMSNormModule>("RMSNorm"),
      entry("ReGLU", ReGLU),
      entry("ReLU", ReLU),
      entry("ReLUSquared", ReLUSquared),
      entry("SELU", SELU),
      entry("SiLU", SiLU),
      entry("Sigmoid", Sigmoid),
      entry<SinusoidalPositionalEmbeddingModule>("SinusoidalPositionalEmbedding"),
      entry<SoftmaxModule>("Softmax"),
      entry<SoftplusModule>("Softplus"),
      entry("SwiGLU", SwiGLU),
      {"SwiGLUFFN", gated_ffn_maker("SwiGLUFFN", "swiglu")},
      entry<SwiGLUMoEFFNModule>("SwiGLUMoEFFN"),
      entry("Tanh", Tanh),
      {"TransformerBlock", make_transformer_block},
  });
  for (const RotaryKind& kind : rotary_kinds()) table.insert(entry(kind));
  for (const std::string& name : attentions().names())
    table.emplace(name, attention_maker(attentions().get(name)));
  return table;
}

/// Layers as they are before users add theirs.
const std::map<std::string, LayerMaker>& built_in() {
  static const std::map<std::string, LayerMaker> table = all_built_in();
  return table;
}

/// A table of layers under names of their kind.
std::map<std::string, LayerMaker> renamed(
    const std::vector<std::pair<const char*, const char*>>& names) {
  std::map<std::string, LayerMaker> table;
  for (const auto& [name, layer] : names) table.emplace(name, built_in().at(layer));
  return table;
}

std::map<std::string, LayerMaker> named(const std::vector<const char*>& layer_names) {
  std::map<std::string, LayerMaker> table;
  for (const char* layer : layer_names) table.emplace(layer, built_in().at(layer));
  return table;
}

/// Where layer_maker() looks behind layers().
std::vector<Registry<LayerMaker>*> kinds() {
  return {&feed_forwards(), &norms(), &positions(), &activations()};
}

}  // namespace

Registry<LayerMaker>& layers() {
  static Registry<LayerMaker> table("layer", built_in());
  return table;
}

bool knows_layer(const std::string& name) {
  if (layers().contains(name) || attentions().contains(name)) return true;
  for (const Registry<LayerMaker>* kind : kinds())
    if (kind->contains(name)) return true;
  return false;
}

LayerMaker layer_maker(const std::string& name) {
  if (layers().contains(name)) return layers().get(name);
  if (attentions().contains(name)) return attention_maker(attentions().get(name));
  for (const Registry<LayerMaker>* kind : kinds())
    if (kind->contains(name)) return kind->get(name);
  return layers().get(name);
}

Registry<LayerMaker>& activations() {
  static Registry<LayerMaker> table("activation", renamed({
                                                      {"elu", "ELU"},
                                                      {"geglu", "GeGLU"},
                                                      {"geglu_tanh", "GeGLUTanh"},
                                                      {"gelu", "GELU"},
                                                      {"gelu_tanh", "GELUTanh"},
                                                      {"glu", "GLU"},
                                                      {"identity", "Identity"},
                                                      {"leaky_relu", "LeakyReLU"},
                                                      {"liglu", "LiGLU"},
                                                      {"mish", "Mish"},
                                                      {"prelu", "PReLU"},
                                                      {"quick_gelu", "QuickGELU"},
                                                      {"reglu", "ReGLU"},
                                                      {"relu", "ReLU"},
                                                      {"relu_squared", "ReLUSquared"},
                                                      {"selu", "SELU"},
                                                      {"sigmoid", "Sigmoid"},
                                                      {"silu", "SiLU"},
                                                      {"softmax", "Softmax"},
                                                      {"softplus", "Softplus"},
                                                      {"swiglu", "SwiGLU"},
                                                      {"swish", "SiLU"},
                                                      {"tanh", "Tanh"},
                                                  }));
  return table;
}

Registry<LayerMaker>& norms() {
  static Registry<LayerMaker> table("norm", renamed({
                                                {"layer_norm", "LayerNorm"},
                                                {"rms_norm", "RMSNorm"},
                                            }));
  return table;
}

Registry<LayerMaker>& feed_forwards() {
  static Registry<LayerMaker> table("feed-forward layer", named({
                                                              "ClassicFFN",
                                                              "ClassicMoEFFN",
                                                              "GatedFFN",
                                                              "GeGLUFFN",
                                                              "GeGLUMoEFFN",
                                                              "SwiGLUFFN",
                                                              "SwiGLUMoEFFN",
                                                          }));
  return table;
}

Registry<LayerMaker>& positions() {
  static Registry<LayerMaker> table(
      "position embedding", renamed({
                                {"absolute", "AbsolutePositionalEmbedding"},
                                {"alibi", "ALiBiPositionalBias"},
                                {"llama3_rotary", "Llama3RotaryPositionalEmbedding"},
                                {"partial_rotary", "PartialRotaryPositionalEmbedding"},
                                {"partial_scaled_rotary", "PartialScaledRotaryPositionalEmbedding"},
                                {"rotary", "RotaryPositionalEmbedding"},
                                {"scaled_rotary", "ScaledRotaryPositionalEmbedding"},
                                {"sinusoidal", "SinusoidalPositionalEmbedding"},
                            }));
  return table;
}

Ref<Module> Norm(const std::string& name, int64_t dim, Json options) {
  options["dim"] = dim;
  return norms().get(name)(options);
}

}  // namespace olm::nn
