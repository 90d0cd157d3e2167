#include <olm/nn/registry.h>

#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/embeddings.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/linear.h>
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

std::map<std::string, LayerMaker> built_in() {
  std::map<std::string, LayerMaker> table = structures();
  table.merge(std::map<std::string, LayerMaker>{
      entry<AbsolutePositionalEmbeddingModule>("AbsolutePositionalEmbedding"),
      entry<ClassicFFNModule>("ClassicFFN"),
      entry<DropoutModule>("Dropout"),
      entry<ELUModule>("ELU"),
      entry<EmbeddingModule>("Embedding"),
      entry("GELU", GELU),
      entry("GELUTanh", GELUTanh),
      entry<GLUModule>("GLU"),
      entry("GeGLU", GeGLU),
      entry<GeGLUFFNModule>("GeGLUFFN"),
      entry("Identity", Identity),
      entry<LayerNormModule>("LayerNorm"),
      entry<LeakyReLUModule>("LeakyReLU"),
      entry("LiGLU", LiGLU),
      entry<LinearModule>("Linear"),
      entry("Mish", Mish),
      entry<OutputHeadModule>("OutputHead"),
      entry<PReLUModule>("PReLU"),
      entry<PartialRotaryPositionalEmbeddingModule>("PartialRotaryPositionalEmbedding"),
      entry<RMSNormModule>("RMSNorm"),
      entry("ReGLU", ReGLU),
      entry("ReLU", ReLU),
      entry("ReLUSquared", ReLUSquared),
      entry<RotaryPositionalEmbeddingModule>("RotaryPositionalEmbedding"),
      entry("SELU", SELU),
      entry("SiLU", SiLU),
      entry("Sigmoid", Sigmoid),
      entry<SinusoidalPositionalEmbeddingModule>("SinusoidalPositionalEmbedding"),
      entry<SoftmaxModule>("Softmax"),
      entry<SoftplusModule>("Softplus"),
      entry("SwiGLU", SwiGLU),
      entry<SwiGLUFFNModule>("SwiGLUFFN"),
      entry("Tanh", Tanh),
  });
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

}  // namespace olm::nn
