#pragma once
// Reference models: families, each with its type of configuration, and presets, each a name for one
// configuration. A model is a Block whose parameters init() or loading fills.
#include <functional>
#include <memory>

#include <olm/nn/decoder.h>

namespace olm::nn {

class ModelConfig;
/// The default configuration of each family, by name. Users add theirs:
/// families().add("mine", ModelConfig(MyConfig(), MyModel, my_init)).
OLM_API Registry<ModelConfig>& families();

/// A type of configuration: a struct with fields(), the name of its family, and the two sizes that
/// depend on the data. An optional given() returns the members that are set, as JSON.
template <class T>
concept FamilyConfig = HasFields<T> && requires(T c) {
  { c.family } -> std::convertible_to<std::string>;
  c.vocab_size = int64_t();
  c.max_seq_len = int64_t();
};

/// The configuration of a model of any family, which can make and initialise such a model. Copies
/// are independent.
class OLM_API ModelConfig {
 public:
  template <FamilyConfig C>
  using Make = Ref<BlockModule> (*)(const C&);
  template <FamilyConfig C>
  using Init = void (*)(Module&, const C&, const InitOptions&);

  /// A family: its default configuration, its factory and its initialisation.
  template <FamilyConfig C>
  ModelConfig(C defaults, Make<C> make, Init<C> init)
      : held_(std::make_unique<HeldAs<C>>(std::move(defaults), make, init)) {}
  /// A configuration of a registered family.
  template <FamilyConfig C>
  ModelConfig(C config) : ModelConfig(families().get(config.family)) {
    as<C>() = std::move(config);
  }
  ModelConfig(const ModelConfig& other) : held_(other.held_->copy()) {}
  ModelConfig(ModelConfig&&) = default;
  ModelConfig& operator=(const ModelConfig& other) { return *this = ModelConfig(other); }
  ModelConfig& operator=(ModelConfig&&) = default;

  std::string family() const { return held_->family(); }
  /// This configuration in another family: members that are set and are keys there keep their
  /// values. Throws for an unknown family, and where a size is no key there but would matter.
  ModelConfig in_family(const std::string& name) const;
  /// The same where sizes that are those of `unset` were not chosen either, and make none.
  ModelConfig in_family(const std::string& name, const ModelConfig& unset) const;
  /// The configuration as its own type; throws where it is of another type.
  template <FamilyConfig C>
  C& as() {
    auto* held = dynamic_cast<HeldAs<C>*>(held_.get());
    require(held != nullptr, "the family ", family(), " has configurations of another type");
    return held->config;
  }
  template <FamilyConfig C>
  const C& as() const {
    return const_cast<ModelConfig*>(this)->as<C>();
  }
  void fields(FieldVisitor& v) { held_->fields(v); }
  int64_t& vocab_size() { return held_->vocab_size(); }
  int64_t vocab_size() const { return held_->vocab_size(); }
  int64_t max_seq_len() const { return held_->max_seq_len(); }
  Ref<BlockModule> make() const { return held_->make(); }
  /// Initialises the parameters of a model of this configuration.
  void init(Module& model, const InitOptions& options = {}) const { held_->init(model, options); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual std::unique_ptr<Held> copy() const = 0;
    virtual std::string family() const = 0;
    virtual void fields(FieldVisitor& v) = 0;
    virtual Json given() = 0;
    virtual int64_t& vocab_size() = 0;
    virtual int64_t max_seq_len() const = 0;
    virtual Ref<BlockModule> make() const = 0;
    virtual void init(Module& model, const InitOptions& options) const = 0;
  };
  template <class C>
  struct HeldAs final : Held {
    HeldAs(C config, Make<C> maker, Init<C> filler)
        : config(std::move(config)), maker(maker), filler(filler) {}
    std::unique_ptr<Held> copy() const override { return std::make_unique<HeldAs>(*this); }
    std::string family() const override { return config.family; }
    void fields(FieldVisitor& v) override { config.fields(v); }
    Json given() override {
      if constexpr (requires { config.given(); })
        return config.given();
      else
        return to_json(config);
    }
    int64_t& vocab_size() override { return config.vocab_size; }
    int64_t max_seq_len() const override { return config.max_seq_len; }
    Ref<BlockModule> make() const override { return maker(config); }
    void init(Module& model, const InitOptions& options) const override {
      filler(model, config, options);
    }
    C config;
    Make<C> maker;
    Init<C> filler;
  };
  std::unique_ptr<Held> held_;
};

/// A configuration with a name: a row of the table in models/presets.cpp.
struct ModelPreset {
  std::string name;
  ModelConfig config;
};
OLM_API const std::vector<ModelPreset>& model_presets();
/// Gives a configuration a name, as presets have one; an equal name is replaced.
OLM_API void add_model(const std::string& name, const ModelConfig& config);
/// The presets in their order, then models that were added.
OLM_API std::vector<std::string> model_names();
/// The configuration of one of these; throws for an unknown name, listing the known ones.
OLM_API ModelConfig model_preset(const std::string& name);

/// Presets as makers, by name: models().get("GPT2")(). Options are members of the configuration to
/// change: {"num_layers": 2}. Users add theirs by add_model(), which makes them known to
/// `olm train --model NAME` too.
OLM_API Registry<LayerMaker>& models();

// Presets as functions, under OpenLanguageModel's names where it has them.
inline Ref<BlockModule> GPT2() { return model_preset("GPT2").make(); }
inline Ref<BlockModule> GPT2Medium() { return model_preset("GPT2Medium").make(); }
inline Ref<BlockModule> GPT2Large() { return model_preset("GPT2Large").make(); }
inline Ref<BlockModule> GPT2XL() { return model_preset("GPT2XL").make(); }
inline Ref<BlockModule> Llama2_7B() { return model_preset("Llama2_7B").make(); }
inline Ref<BlockModule> Llama2_13B() { return model_preset("Llama2_13B").make(); }
inline Ref<BlockModule> Llama2_70B() { return model_preset("Llama2_70B").make(); }
inline Ref<BlockModule> Llama3_1_8B() { return model_preset("Llama3_1_8B").make(); }
inline Ref<BlockModule> Llama3_1_70B() { return model_preset("Llama3_1_70B").make(); }
inline Ref<BlockModule> Llama3_1_405B() { return model_preset("Llama3_1_405B").make(); }
inline Ref<BlockModule> Llama3_2_1B() { return model_preset("Llama3_2_1B").make(); }
inline Ref<BlockModule> Llama3_2_3B() { return model_preset("Llama3_2_3B").make(); }
inline Ref<BlockModule> Qwen2_5_0_5B() { return model_preset("Qwen2_5_0_5B").make(); }
inline Ref<BlockModule> Qwen2_5_1_5B() { return model_preset("Qwen2_5_1_5B").make(); }
inline Ref<BlockModule> Qwen2_5_3B() { return model_preset("Qwen2_5_3B").make(); }
inline Ref<BlockModule> Qwen2_5_7B() { return model_preset("Qwen2_5_7B").make(); }
inline Ref<BlockModule> Qwen2_5_14B() { return model_preset("Qwen2_5_14B").make(); }
inline Ref<BlockModule> Qwen2_5_32B() { return model_preset("Qwen2_5_32B").make(); }
inline Ref<BlockModule> Qwen2_5_72B() { return model_preset("Qwen2_5_72B").make(); }
inline Ref<BlockModule> Phi3_5_Mini() { return model_preset("Phi3_5_Mini").make(); }
inline Ref<BlockModule> Phi3_Small() { return model_preset("Phi3_Small").make(); }
inline Ref<BlockModule> Phi4_14B() { return model_preset("Phi4_14B").make(); }
inline Ref<BlockModule> Gemma2_2B() { return model_preset("Gemma2_2B").make(); }
inline Ref<BlockModule> Gemma2_9B() { return model_preset("Gemma2_9B").make(); }
inline Ref<BlockModule> Gemma2_27B() { return model_preset("Gemma2_27B").make(); }
inline Ref<BlockModule> OLMo_7B() { return model_preset("OLMo_7B").make(); }
inline Ref<BlockModule> OPT125M() { return model_preset("OPT125M").make(); }
inline Ref<BlockModule> Qwen3_0_6B() { return model_preset("Qwen3_0_6B").make(); }
inline Ref<BlockModule> Qwen3_1_7B() { return model_preset("Qwen3_1_7B").make(); }
inline Ref<BlockModule> Qwen3_4B() { return model_preset("Qwen3_4B").make(); }
inline Ref<BlockModule> Qwen3_8B() { return model_preset("Qwen3_8B").make(); }
inline Ref<BlockModule> Qwen3_14B() { return model_preset("Qwen3_14B").make(); }
inline Ref<BlockModule> Qwen3_32B() { return model_preset("Qwen3_32B").make(); }
inline Ref<BlockModule> Gemma3_1B() { return model_preset("Gemma3_1B").make(); }
inline Ref<BlockModule> Gemma3_4B() { return model_preset("Gemma3_4B").make(); }
inline Ref<BlockModule> Gemma3_12B() { return model_preset("Gemma3_12B").make(); }
inline Ref<BlockModule> Gemma3_27B() { return model_preset("Gemma3_27B").make(); }
inline Ref<BlockModule> Olmo2_1B() { return model_preset("Olmo2_1B").make(); }
inline Ref<BlockModule> Olmo2_7B() { return model_preset("Olmo2_7B").make(); }
inline Ref<BlockModule> Olmo2_13B() { return model_preset("Olmo2_13B").make(); }
inline Ref<BlockModule> Olmo2_32B() { return model_preset("Olmo2_32B").make(); }
inline Ref<BlockModule> Olmo3_7B() { return model_preset("Olmo3_7B").make(); }
inline Ref<BlockModule> Olmo3_32B() { return model_preset("Olmo3_32B").make(); }
inline Ref<BlockModule> Mixtral_8x7B() { return model_preset("Mixtral_8x7B").make(); }
inline Ref<BlockModule> Qwen3_30B_A3B() { return model_preset("Qwen3_30B_A3B").make(); }
inline Ref<BlockModule> Qwen3_235B_A22B() { return model_preset("Qwen3_235B_A22B").make(); }
inline Ref<BlockModule> DeepSeekV3_671B() { return model_preset("DeepSeekV3_671B").make(); }
inline Ref<BlockModule> Mistral_7B() { return model_preset("Mistral_7B").make(); }

}  // namespace olm::nn
