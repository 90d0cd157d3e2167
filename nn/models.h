#pragma once
// Reference models: families, each with its configuration, and presets, each a row of sizes. A
// model is a Block that init() or loading fills.
#include <functional>
#include <memory>

#include <olm/nn/blocks.h>
#include <olm/nn/registry.h>

namespace olm::nn {

/// Members that configurations of all families have.
void decoder_fields(auto& v, auto& c) {
  v("vocab_size", c.vocab_size, {.min = 1, .help = "ids of the tokenizer"});
  v("num_layers", c.num_layers, {.min = 1, .max = 10000, .help = "transformer layers"});
  v("embed_dim", c.embed_dim, {.min = 1, .max = 1000000, .help = "width"});
  v("num_heads", c.num_heads,
    {.min = 1, .max = 1000000, .help = "attention heads, which divide embed_dim"});
  v("max_seq_len", c.max_seq_len,
    {.min = 2, .max = 10000000, .help = "context in tokens, in training and sampling"});
  v("dropout", c.dropout, {.min = 0, .max = 0.99, .help = "dropout probability"});
  v("tie_weights", c.tie_weights, {.help = "the head uses the embedding's matrix"});
}

struct GPT2Config {
  static constexpr const char* family = "gpt2";
  int64_t vocab_size = 50257, embed_dim = 768, num_layers = 12, num_heads = 12, max_seq_len = 1024;
  std::optional<int64_t> hidden_dim = {};  ///< of the feed-forward layers; 4 · embed_dim if empty
  double dropout = 0.1;
  bool tie_weights = true;
  bool bias = true;        ///< of the linear layers
  bool gelu_tanh = false;  ///< the GELU that the published weights were trained with
  void fields(auto& v) {
    decoder_fields(v, *this);
    v("hidden_dim", hidden_dim,
      {.min = 1,
       .max = 10000000,
       .help = "width inside the feed-forward layers; 4 times embed_dim where left out"});
    v("bias", bias, {.help = "biases in linear layers"});
    v("gelu_tanh", gelu_tanh, {.help = "GELU by tanh, as the published weights want it"});
  }
};

/// GPT-2: x + FlashAttention(LayerNorm(x)), x + ClassicFFN(LayerNorm(x)), learned positions.
///   ids [B,T]    logits [B,T,V]
/// Layout: {{Embedding, AbsolutePositionalEmbedding}, Repeat, OutputHead}. Throws for a value
/// outside its range and sizes that do not divide. Radford et al. 2019.
OLM_API Ref<BlockModule> GPT2Model(const GPT2Config& config);

/// Of Llama 2 and Llama 3.
struct LlamaConfig {
  static constexpr const char* family = "llama";
  int64_t vocab_size = 32000, embed_dim = 4096;
  /// Of the feed-forward layers; 8/3 · embed_dim, up to a multiple of 64, if empty.
  std::optional<int64_t> intermediate_size = {};
  int64_t num_layers = 32, num_heads = 32;
  std::optional<int64_t> num_kv_heads = {};  ///< num_heads if empty
  int64_t max_seq_len = 4096;
  double rope_theta = 10000, dropout = 0;
  bool tie_weights = true;
  double rms_norm_eps = 1e-5;
  void fields(auto& v) {
    decoder_fields(v, *this);
    v("intermediate_size", intermediate_size,
      {.min = 1,
       .max = 10000000,
       .help = "width inside the feed-forward layers; 8/3 of embed_dim, up to a multiple of 64, "
               "where left out"});
    v("num_kv_heads", num_kv_heads,
      {.min = 1,
       .max = 1000000,
       .help = "key and value heads, which divide num_heads; as many where left out"});
    v("rope_theta", rope_theta, {.above = 0, .help = "base of the rotary frequencies"});
    v("rms_norm_eps", rms_norm_eps, {.min = 0, .max = 1, .help = "added to mean squares"});
  }
};

/// Llama: x + attention(RMSNorm(x)), x + SwiGLUFFN(RMSNorm(x)), no biases. Attention is
/// FlashAttentionwithRoPE where num_kv_heads is num_heads, else GroupedQueryAttention.
///   ids [B,T]    logits [B,T,V]
/// Layout: {Embedding, Repeat, RMSNorm, OutputHead without norm}. Throws for a value outside its
/// range and sizes that do not divide. Touvron et al. 2023, arXiv:2307.09288.
OLM_API Ref<BlockModule> Llama2Model(const LlamaConfig& config);
/// The same with GroupedQueryAttention throughout. Grattafiori et al. 2024, arXiv:2407.21783.
OLM_API Ref<BlockModule> Llama3Model(const LlamaConfig& config);

class ModelConfig;
/// Families by name, as their default configurations. Users add theirs:
/// families().add("mine", ModelConfig(MyConfig(), MyModel, my_init)).
OLM_API Registry<ModelConfig>& families();

/// What the configuration of a family is: it lists its members, names its family, and has the two
/// sizes that data decides.
template <class T>
concept FamilyConfig = HasFields<T> && requires(T c) {
  { T::family } -> std::convertible_to<std::string>;
  c.vocab_size = int64_t();
  c.max_seq_len = int64_t();
};

/// The configuration of a model of any family, with how such models are made and filled. A value.
class OLM_API ModelConfig {
 public:
  template <FamilyConfig C>
  using Make = Ref<BlockModule> (*)(const C&);
  template <FamilyConfig C>
  using Init = void (*)(Module&, const C&, const InitOptions&);

  /// A family: its default configuration, its factory, its initialisation rule.
  template <FamilyConfig C>
  ModelConfig(C defaults, Make<C> make, Init<C> init)
      : held_(std::make_unique<HeldAs<C>>(std::move(defaults), make, init)) {}
  /// A configuration of a registered family.
  template <FamilyConfig C>
  ModelConfig(C config) : ModelConfig(families().get(C::family)) {
    as<C>() = std::move(config);
  }
  ModelConfig(const ModelConfig& other) : held_(other.held_->copy()) {}
  ModelConfig(ModelConfig&&) = default;
  ModelConfig& operator=(const ModelConfig& other) { return *this = ModelConfig(other); }
  ModelConfig& operator=(ModelConfig&&) = default;

  std::string family() const { return held_->family(); }
  /// The same in another family: members of one name keep their value. Throws listing the families.
  ModelConfig in_family(const std::string& name) const;
  /// The configuration itself; throws where it is one of another family.
  template <FamilyConfig C>
  C& as() {
    auto* held = dynamic_cast<HeldAs<C>*>(held_.get());
    require(held != nullptr, "a configuration of ", C::family, " was wanted, this is one of ",
            family());
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
  /// Fills a model of this configuration by the family's rule.
  void init(Module& model, const InitOptions& options = {}) const { held_->init(model, options); }

 private:
  struct Held {
    virtual ~Held() = default;
    virtual std::unique_ptr<Held> copy() const = 0;
    virtual std::string family() const = 0;
    virtual void fields(FieldVisitor& v) = 0;
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
    std::string family() const override { return C::family; }
    void fields(FieldVisitor& v) override { config.fields(v); }
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

/// A model by name: a row of the table in models/presets.cpp is all there is of it.
struct ModelPreset {
  std::string name;
  ModelConfig config;
};
OLM_API const std::vector<ModelPreset>& model_presets();
/// The configuration of a preset; throws listing the known ones.
OLM_API const ModelConfig& model_preset(const std::string& name);

/// Makers of the presets by name, "GPT2" and so on: models().get("GPT2")(). Options are members of
/// the family's configuration that differ: {"num_layers": 2}.
OLM_API Registry<LayerMaker>& models();

// The names of OpenLanguageModel's presets as functions.
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

}  // namespace olm::nn
