#include <algorithm>

#include <olm/nn/models.h>

namespace olm::nn {
namespace {

/// Sizes that presets of a family differ in.
struct Sizes {
  int64_t embed_dim;
  int64_t intermediate_size;  ///< 0 where it follows from embed_dim
  int64_t num_layers, num_heads;
  int64_t num_kv_heads = 0;  ///< 0 where the family has none or as many as num_heads
  int64_t max_seq_len = 0;   ///< 0 is the one that the family's presets have
};

/// `c` with sizes of its own.
DecoderConfig sized(DecoderConfig c, const Sizes& s) {
  c.embed_dim = s.embed_dim;
  if (s.intermediate_size > 0) c.intermediate_size = s.intermediate_size;
  c.num_layers = s.num_layers;
  c.num_heads = s.num_heads;
  if (s.num_kv_heads > 0) c.num_kv_heads = s.num_kv_heads;
  if (s.max_seq_len > 0) c.max_seq_len = s.max_seq_len;
  return c;
}

DecoderConfig gpt2(int64_t embed_dim, int64_t num_layers, int64_t num_heads) {
  const DecoderConfig c{.family = "gpt2", .vocab_size = 50257, .max_seq_len = 1024};
  return sized(c, {embed_dim, 0, num_layers, num_heads});
}

DecoderConfig llama2(const Sizes& s) {
  return sized({.family = "llama", .vocab_size = 32000, .max_seq_len = 4096}, s);
}

DecoderConfig llama3(const Sizes& s) {
  return sized({.family = "llama3", .vocab_size = 128256, .max_seq_len = 131072}, s);
}

DecoderConfig qwen2_5(int64_t vocab_size, double eps, const Sizes& s) {
  return sized(
      {.family = "qwen2", .vocab_size = vocab_size, .max_seq_len = 131072, .rms_norm_eps = eps}, s);
}

DecoderConfig gemma2(int64_t head_dim, const Sizes& s) {
  return sized(
      {.family = "gemma2", .vocab_size = 256000, .head_dim = head_dim, .max_seq_len = 8192}, s);
}

DecoderConfig qwen3(bool tie, const Sizes& s) {
  return sized({.family = "qwen3",
                .vocab_size = 151936,
                .head_dim = 128,
                .max_seq_len = 40960,
                .tie_weights = tie},
               s);
}

DecoderConfig gemma3(int64_t head_dim, int64_t window, const Sizes& s) {
  return sized({.family = "gemma3",
                .vocab_size = 262144,
                .head_dim = head_dim,
                .max_seq_len = 131072,
                .sliding_window = window},
               s);
}

DecoderConfig olmo2(const Sizes& s) {
  return sized({.family = "olmo2", .vocab_size = 100352, .max_seq_len = 4096, .tie_weights = false},
               s);
}

DecoderConfig olmo3(const Sizes& s) {
  return sized({.family = "olmo3",
                .vocab_size = 100278,
                .head_dim = 128,
                .max_seq_len = 65536,
                .tie_weights = false},
               s);
}

std::vector<ModelPreset> openlanguagemodel_2_2() {
  return {
      {"GPT2", gpt2(768, 12, 12)},
      {"GPT2Medium", gpt2(1024, 24, 16)},
      {"GPT2Large", gpt2(1280, 36, 20)},
      {"GPT2XL", gpt2(1600, 48, 25)},
      {"Llama2_7B", llama2({4096, 11008, 32, 32})},
      {"Llama2_13B", llama2({5120, 13824, 40, 40})},
      {"Llama2_70B", llama2({8192, 28672, 80, 64, 8})},
      {"Llama3_1_8B", llama3({4096, 14336, 32, 32, 8})},
      {"Llama3_1_70B", llama3({8192, 28672, 80, 64, 8})},
      {"Llama3_1_405B", llama3({16384, 53248, 126, 128, 8})},
      {"Llama3_2_1B", llama3({2048, 8192, 16, 32, 8})},
      {"Llama3_2_3B", llama3({3072, 8192, 28, 24, 8})},
      {"Qwen2_5_0_5B", qwen2_5(151936, 1e-6, {896, 4864, 24, 14, 2, 32768})},
      {"Qwen2_5_1_5B", qwen2_5(151936, 1e-6, {1536, 8960, 28, 12, 2})},
      {"Qwen2_5_3B", qwen2_5(151936, 1e-6, {2048, 11008, 36, 16, 2, 32768})},
      {"Qwen2_5_7B", qwen2_5(152064, 1e-6, {3584, 18944, 28, 28, 4})},
      {"Qwen2_5_14B", qwen2_5(152064, 1e-5, {5120, 13824, 48, 40, 8})},
      {"Qwen2_5_32B", qwen2_5(152064, 1e-5, {5120, 27648, 64, 40, 8})},
      {"Qwen2_5_72B", qwen2_5(152064, 1e-5, {8192, 29568, 80, 64, 8})},
      {"Phi3_5_Mini",
       sized({.family = "phi3", .vocab_size = 32064, .max_seq_len = 131072}, {3072, 8192, 32, 32})},
      {"Phi3_Small", sized({.family = "phi3",
                            .vocab_size = 100352,
                            .max_seq_len = 131072,
                            .rope_theta = 1000000,
                            .activation = "geglu"},
                           {4096, 14336, 32, 32, 8})},
      {"Phi4_14B", sized({.family = "phi4", .vocab_size = 100352, .max_seq_len = 16384},
                         {5120, 17920, 40, 40, 10})},
      {"Gemma2_2B", gemma2(256, {2304, 9216, 26, 8, 4})},
      {"Gemma2_9B", gemma2(256, {3584, 14336, 42, 16, 8})},
      {"Gemma2_27B", gemma2(128, {4608, 36864, 46, 32, 16})},
      {"OLMo_7B",
       sized({.family = "olmo", .vocab_size = 50280, .max_seq_len = 2048}, {4096, 22016, 32, 32})},
      {"OPT125M",
       sized({.family = "opt", .vocab_size = 50272, .max_seq_len = 2048}, {768, 3072, 12, 12})},
  };
}

std::vector<ModelPreset> later_ones() {
  return {
      {"Mistral_7B", sized({.family = "mistral",
                            .vocab_size = 32000,
                            .max_seq_len = 32768,
                            .tie_weights = false,
                            .sliding_window = 4096},
                           {4096, 14336, 32, 32, 8})},
      {"Qwen3_0_6B", qwen3(true, {1024, 3072, 28, 16, 8})},
      {"Qwen3_1_7B", qwen3(true, {2048, 6144, 28, 16, 8})},
      {"Qwen3_4B", qwen3(true, {2560, 9728, 36, 32, 8})},
      {"Qwen3_8B", qwen3(false, {4096, 12288, 36, 32, 8})},
      {"Qwen3_14B", qwen3(false, {5120, 17408, 40, 40, 8})},
      {"Qwen3_32B", qwen3(false, {5120, 25600, 64, 64, 8})},
      {"Gemma3_1B", gemma3(256, 512, {1152, 6912, 26, 4, 1, 32768})},
      {"Gemma3_4B", gemma3(256, 1024, {2560, 10240, 34, 8, 4})},
      {"Gemma3_12B", gemma3(256, 1024, {3840, 15360, 48, 16, 8})},
      {"Gemma3_27B", gemma3(128, 1024, {5376, 21504, 62, 32, 16})},
      {"Olmo2_1B", olmo2({2048, 8192, 16, 16})},
      {"Olmo2_7B", olmo2({4096, 11008, 32, 32})},
      {"Olmo2_13B", olmo2({5120, 13824, 40, 40})},
      {"Olmo2_32B", olmo2({5120, 27648, 64, 40, 8})},
      {"Olmo3_7B", olmo3({4096, 11008, 32, 32})},
      {"Olmo3_32B", olmo3({5120, 27648, 64, 40, 8})},
  };
}

std::vector<ModelPreset> mixtures() {
  const auto qwen3_moe = [](int64_t expert, const Sizes& s) {
    return sized({.family = "qwen3_moe",
                  .vocab_size = 151936,
                  .head_dim = 128,
                  .max_seq_len = 32768,
                  .tie_weights = false,
                  .num_experts = 128,
                  .top_k = 8,
                  .moe_intermediate_size = expert},
                 s);
  };
  const DecoderConfig mixtral{.family = "mixtral",
                              .vocab_size = 32000,
                              .max_seq_len = 32768,
                              .tie_weights = false,
                              .moe_intermediate_size = 14336};
  const DecoderConfig deepseek{.family = "deepseek_v3",
                               .vocab_size = 129280,
                               .max_seq_len = 163840,
                               .tie_weights = false,
                               .num_experts = 256,
                               .top_k = 8,
                               .moe_intermediate_size = 2048,
                               .first_k_dense_replace = 3,
                               .routed_scaling_factor = 2.5,
                               .q_lora_rank = 1536,
                               .kv_lora_rank = 512,
                               .qk_nope_head_dim = 128,
                               .qk_rope_head_dim = 64,
                               .v_head_dim = 128};
  return {
      {"Mixtral_8x7B", sized(mixtral, {4096, 14336, 32, 32, 8})},
      {"Qwen3_30B_A3B", qwen3_moe(768, {2048, 6144, 48, 32, 4})},
      {"Qwen3_235B_A22B", qwen3_moe(1536, {4096, 12288, 94, 64, 4})},
      {"DeepSeekV3_671B", sized(deepseek, {7168, 18432, 61, 128})},
  };
}

/// True where a size says nothing, because the others say it.
bool follows(const std::string& key, const Json& value, const Json& from) {
  const auto size = [&](const char* name) {
    const Json* found = from.find(name);
    return found && found->is_integer() ? found->as_int() : 0;
  };
  if (key == "num_kv_heads") return value.as_int() == size("num_heads");
  if (key == "head_dim") return value.as_int() * size("num_heads") == size("embed_dim");
  return false;
}

}  // namespace

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset> table = [] {
    std::vector<ModelPreset> rows = openlanguagemodel_2_2();
    for (const auto& more : {later_ones(), mixtures()})
      rows.insert(rows.end(), more.begin(), more.end());
    return rows;
  }();
  return table;
}

namespace {

/// Models that users added.
Registry<ModelConfig>& added_models() {
  static Registry<ModelConfig> table("model", {});
  return table;
}

LayerMaker maker_of(const std::string& name, const ModelConfig& usual) {
  return [name, usual](const Json& options, DescribedChildren) -> Ref<Module> {
    ModelConfig config = usual;
    from_json(options, config, name);
    return config.make();
  };
}

}  // namespace

void add_model(const std::string& name, const ModelConfig& config) {
  added_models().add(name, config);
  models().add(name, maker_of(name, config));
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const ModelPreset& preset : model_presets()) names.push_back(preset.name);
  for (const std::string& name : added_models().names())
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  return names;
}

ModelConfig model_preset(const std::string& name) {
  if (added_models().contains(name)) return added_models().get(name);
  for (const ModelPreset& preset : model_presets())
    if (preset.name == name) return preset.config;
  std::string known;
  for (const std::string& other : model_names()) known += (known.empty() ? "" : ", ") + other;
  fail("unknown model \"", name, "\"; known are ", known);
}

Registry<LayerMaker>& models() {
  static Registry<LayerMaker> table("model", [] {
    std::map<std::string, LayerMaker> makers;
    for (const auto& [name, config] : model_presets()) makers.emplace(name, maker_of(name, config));
    return makers;
  }());
  return table;
}

ModelConfig ModelConfig::in_family(const std::string& name) const {
  return in_family(name, families().get(family()));
}

ModelConfig ModelConfig::in_family(const std::string& name, const ModelConfig& unset) const {
  ModelConfig result = families().get(name);
  const Json before = held_->given(), theirs = to_json(result);
  const Json usual = to_json(unset);
  Json kept = Json::object();
  for (const auto& [key, value] : before.members()) {
    const Json* own = theirs.find(key);
    if (own && (own->is_null() || own->kind() == value.kind())) kept[key] = value;
    const Json* unsaid = usual.find(key);
    require(
        own || !value.is_integer() || (unsaid && *unsaid == value) || follows(key, value, before),
        "the family ", name, " has no ", key, ", which is ", value.dump(), " in the family ",
        family(), " that the configuration is of");
  }
  from_json(kept, result, "family " + name);
  return result;
}

}  // namespace olm::nn
