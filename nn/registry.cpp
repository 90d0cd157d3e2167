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
  for (Merge merge : {merge::sum(), merge::mean(), merge::cat()})
    if (merge.name == name) return merge;
  fail("Parallel: unknown merge \"", name, "\"; known are sum, mean, cat");
}

Ref<Module> make_parallel(const Json& json, DescribedChildren children) {
  ParallelOptions options;
  from_json(json, options, "Parallel");
  return Parallel(modules_of("Parallel", "blocks", children), merge_by_name(options.merge),
                  options.dim);
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
  return without_options(type, [make](const DescribedChildren&) { return Ref<Module>(make()); });
}

std::map<std::string, LayerMaker> structures() {
  return {
      without_options("Block",
                      [](const DescribedChildren& children) -> Ref<Module> {
                        return Block(modules_of("Block", "blocks", children));
                      }),
      {"Parallel", make_parallel},
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

std::map<std::string, LayerMaker> built_in() {
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
      entry<GeGLUFFNModule>("GeGLUFFN"),
      entry("GeGLUTanh", GeGLUTanh),
      entry<GeGLUTanhFFNModule>("GeGLUTanhFFN"),
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
      entry<SwiGLUFFNModule>("SwiGLUFFN"),
      entry<SwiGLUMoEFFNModule>("SwiGLUMoEFFN"),
      entry("Tanh", Tanh),
  });
  for (const RotaryKind& kind : rotary_kinds()) table.insert(entry(kind));
  for (const std::string& name : attentions().names())
    table.emplace(name, attention_maker(attentions().get(name)));
  return table;
}

}  // namespace

Registry<LayerMaker>& layers() {
  static Registry<LayerMaker> table("layer", built_in());
  return table;
}

bool knows_layer(const std::string& name) {
  return layers().contains(name) || attentions().contains(name);
}

LayerMaker layer_maker(const std::string& name) {
  if (layers().contains(name) || !attentions().contains(name)) return layers().get(name);
  return attention_maker(attentions().get(name));
}

Registry<std::function<Ref<Module>()>>& activations() {
  static Registry<std::function<Ref<Module>()>> table(
      "activation", {
                        {"elu", [] { return ELU(); }},
                        {"geglu", GeGLU},
                        {"geglu_tanh", GeGLUTanh},
                        {"gelu", GELU},
                        {"gelu_tanh", GELUTanh},
                        {"glu", [] { return GLU(); }},
                        {"identity", Identity},
                        {"leaky_relu", [] { return LeakyReLU(); }},
                        {"liglu", LiGLU},
                        {"mish", Mish},
                        {"prelu", [] { return PReLU(); }},
                        {"reglu", ReGLU},
                        {"relu", ReLU},
                        {"relu_squared", ReLUSquared},
                        {"selu", SELU},
                        {"sigmoid", Sigmoid},
                        {"silu", SiLU},
                        {"softmax", [] { return Softmax(); }},
                        {"softplus", [] { return Softplus(); }},
                        {"swiglu", SwiGLU},
                        {"swish", SiLU},
                        {"tanh", Tanh},
                    });
  return table;
}

Registry<std::function<Ref<Module>(int64_t)>>& norms() {
  static Registry<std::function<Ref<Module>(int64_t)>> table(
      "norm", {
                  {"layer_norm", [](int64_t dim) { return LayerNorm(dim); }},
                  {"rms_norm", [](int64_t dim) { return RMSNorm(dim); }},
              });
  return table;
}

namespace {
std::function<Ref<Module>(int64_t, int64_t)> rotary_maker(const char* name) {
  return [name](int64_t head_dim, int64_t max_seq_len) {
    return Rotary(name, {.head_dim = head_dim, .max_seq_len = max_seq_len});
  };
}
}  // namespace

Registry<std::function<Ref<Module>(int64_t, int64_t)>>& positions() {
  static Registry<std::function<Ref<Module>(int64_t, int64_t)>> table(
      "position embedding",
      {
          {"absolute",
           [](int64_t dim, int64_t length) { return AbsolutePositionalEmbedding(length, dim); }},
          {"alibi", [](int64_t heads, int64_t) { return ALiBiPositionalBias(heads); }},
          {"llama3_rotary", rotary_maker("Llama3RotaryPositionalEmbedding")},
          {"partial_rotary", rotary_maker("PartialRotaryPositionalEmbedding")},
          {"partial_scaled_rotary", rotary_maker("PartialScaledRotaryPositionalEmbedding")},
          {"rotary", rotary_maker("RotaryPositionalEmbedding")},
          {"scaled_rotary", rotary_maker("ScaledRotaryPositionalEmbedding")},
          {"sinusoidal",
           [](int64_t dim, int64_t length) {
             return SinusoidalPositionalEmbedding(dim, {.max_seq_len = length});
           }},
      });
  return table;
}

}  // namespace olm::nn
