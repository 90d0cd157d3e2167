#include <olm/nn/models.h>

namespace olm::nn {
namespace {

template <class C>
void fill_by_gpt2(Module& model, const C& config, const InitOptions& options) {
  init_gpt2(model, config.num_layers, options);
}

template <class C>
std::pair<const std::string, ModelConfig> family(ModelConfig::Make<C> make,
                                                 ModelConfig::Init<C> init) {
  return {C::family, ModelConfig(C(), make, init)};
}

LlamaConfig llama3(int64_t embed_dim, int64_t intermediate_size, int64_t num_layers,
                   int64_t num_heads) {
  return {.vocab_size = 128256,
          .embed_dim = embed_dim,
          .intermediate_size = intermediate_size,
          .num_layers = num_layers,
          .num_heads = num_heads,
          .num_kv_heads = 8,
          .max_seq_len = 131072,
          .rope_theta = 500000};
}

}  // namespace

Registry<ModelConfig>& families() {
  static Registry<ModelConfig> table("model family",
                                     {
                                         family<GPT2Config>(GPT2Model, fill_by_gpt2),
                                         family<LlamaConfig>(Llama2Model, fill_by_gpt2),
                                     });
  return table;
}

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset> table = {
      {"GPT2", GPT2Config()},
      {"GPT2Medium", GPT2Config{.embed_dim = 1024, .num_layers = 24, .num_heads = 16}},
      {"GPT2Large", GPT2Config{.embed_dim = 1280, .num_layers = 36, .num_heads = 20}},
      {"GPT2XL", GPT2Config{.embed_dim = 1600, .num_layers = 48, .num_heads = 25}},
      {"Llama2_7B", LlamaConfig{.intermediate_size = 11008}},
      {"Llama2_13B",
       LlamaConfig{
           .embed_dim = 5120, .intermediate_size = 13824, .num_layers = 40, .num_heads = 40}},
      {"Llama2_70B", LlamaConfig{.embed_dim = 8192,
                                 .intermediate_size = 28672,
                                 .num_layers = 80,
                                 .num_heads = 64,
                                 .num_kv_heads = 8}},
      {"Llama3_1_8B", llama3(4096, 14336, 32, 32)},
      {"Llama3_1_70B", llama3(8192, 28672, 80, 64)},
      {"Llama3_1_405B", llama3(16384, 53248, 126, 128)},
      {"Llama3_2_1B", llama3(2048, 8192, 16, 32)},
      {"Llama3_2_3B", llama3(3072, 8192, 28, 24)},
  };
  return table;
}

const ModelConfig& model_preset(const std::string& name) {
  std::string known;
  for (const ModelPreset& preset : model_presets()) {
    if (preset.name == name) return preset.config;
    known += (known.empty() ? "" : ", ") + preset.name;
  }
  fail("unknown model \"", name, "\"; known are ", known);
}

Registry<LayerMaker>& models() {
  static Registry<LayerMaker> table("model", [] {
    std::map<std::string, LayerMaker> makers;
    for (const ModelPreset& preset : model_presets())
      makers.emplace(preset.name, [&preset](const Json& options, DescribedChildren) -> Ref<Module> {
        ModelConfig config = preset.config;
        from_json(options, config, preset.name);
        return config.make();
      });
    return makers;
  }());
  return table;
}

ModelConfig ModelConfig::in_family(const std::string& name) const {
  ModelConfig result = families().get(name);
  const Json before = to_json(*this), defaults = to_json(result);
  Json kept = Json::object();
  for (const auto& [key, value] : before.members())
    if (const Json* own = defaults.find(key);
        own && (own->is_null() || own->kind() == value.kind()))
      kept[key] = value;
  from_json(kept, result, "family " + name);
  return result;
}

}  // namespace olm::nn
