// Things by name: what users add under a name can be made, described and rebuilt.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/select.h>
#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>
#include <olm/nn/registry.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

struct SineOptions {
  double frequency = 1;
  void fields(auto& v) { v("frequency", frequency); }
};
/// An activation that users might write: x + sin²(f · x) / f, Ziyin et al. 2020.
class Snake final : public Layer<SineOptions, ActivationBase> {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Context&) override {
    return x + square(sin(x * options.frequency)) * (1 / options.frequency);
  }
  std::string type_name() const override { return "snake"; }
};

/// A gated unit of theirs.
class SineGLU final : public ActivationBase {
 public:
  Tensor forward(const Tensor& x, Context&) override {
    const int64_t half = x.size(-1) / 2;
    return slice(x, -1, 0, half) * sin(slice(x, -1, half));
  }
  std::string type_name() const override { return "sine_glu"; }
  bool gated() const override { return true; }
};

struct ScaleNormOptions {
  int64_t dim = 0;
  double eps = 1e-5;
  void fields(auto& v) {
    v("dim", dim);
    v("eps", eps);
  }
};
class ScaleNorm final : public Layer<ScaleNormOptions> {
 public:
  explicit ScaleNorm(ScaleNormOptions o) : Layer(o) {}
  Tensor forward(const Tensor& x, Context&) override { return x * 0.5; }
  std::string type_name() const override { return "scale_norm"; }
};

/// Adds to the registries once.
void add_ours() {
  activations().add("snake", layer_maker<Snake>("snake"));
  activations().add("sine_glu", [] { return make<SineGLU>(); });
  norms().add("scale_norm", layer_maker<ScaleNorm>("scale_norm"));
}

Tensor input() {
  Generator rng(1);
  return randn({2, 3, 8}, rng);
}

}  // namespace

TEST_SUITE("nn/registry") {
  TEST_CASE("activations of users go into feed-forward layers by name and come back") {
    add_ours();
    for (const Ref<Module>& ffn :
         std::vector<Ref<Module>>{ClassicFFN(8, {.activation = "snake"}),
                                  ClassicFFN(8, {.activation_fn = make<Snake>(SineOptions{2})}),
                                  GatedFFN(8, {.gated_unit = "sine_glu"})}) {
      init(*ffn, {.seed = 1});
      const Json described = describe(*ffn);
      INFO(described.dump());
      const Ref<Module> again = build(described);
      again->load_state_dict(ffn->state_dict());
      check_same_bits(again(input()), ffn(input()), "rebuilt");
    }
    check_error([] { ClassicFFN(8, {.activation = "sine_glu"}); }, {"sine_glu", "GatedFFN"});
  }

  TEST_CASE("what has no options refuses some") {
    add_ours();
    const Json some = Json::parse(R"({"a": 1})");
    check_error([&] { activations().get("sine_glu")(some); }, {"sine_glu", "no options", "\"a\""});
    check_error([&] { activations().get("gelu")(some); }, {"GELU", "no options"});
  }

  TEST_CASE("presets of models take the sizes that differ") {
    const Json small = Json::parse(R"({"num_layers": 1, "embed_dim": 8, "num_heads": 2,
                                       "vocab_size": 11, "max_seq_len": 6})");
    const Ref<Module> model = models().get("GPT2")(small);
    CHECK(describe(*model) == describe(*GPT2Model({.vocab_size = 11,
                                                   .embed_dim = 8,
                                                   .num_layers = 1,
                                                   .num_heads = 2,
                                                   .max_seq_len = 6})));
    check_error([] { models().get("GPT2")(Json::parse(R"({"rope_theta": 1})")); },
                {"GPT2", "rope_theta"});
  }

  TEST_CASE("models of users have names as presets have") {
    const ModelConfig mine = DecoderConfig{.family = "llama",
                                           .vocab_size = 11,
                                           .embed_dim = 8,
                                           .num_layers = 1,
                                           .num_heads = 2,
                                           .max_seq_len = 6};
    add_model("Llama_8", mine);
    CHECK(model_names().back() == "Llama_8");
    CHECK(model_names().size() == model_presets().size() + 1);
    CHECK(to_json(model_preset("Llama_8")) == to_json(mine));
    CHECK(describe(*models().get("Llama_8")()) == describe(*mine.make()));
    check_error([] { model_preset("Llama_9"); }, {"Llama_9", "GPT2XL", "Llama_8"});
    add_model("Llama_8", mine.in_family("qwen2"));
    CHECK(model_preset("Llama_8").family() == "qwen2");
    CHECK(model_names().size() == model_presets().size() + 1);
  }

  TEST_CASE("norms take their options, those of users too") {
    add_ours();
    const Ref<Module> norm = Norm("rms_norm", 8, Json::parse(R"({"eps": 0.25})"));
    CHECK(dynamic_cast<RMSNormModule&>(*norm).options.eps == 0.25);
    CHECK(Norm("scale_norm", 8)->type_name() == "scale_norm");
    CHECK(describe(*build(describe(*Norm("scale_norm", 8)))) == describe(*Norm("scale_norm", 8)));
    check_error([] { Norm("rms_norm", 8, Json::parse(R"({"esp": 1})")); }, {"RMSNorm", "esp"});
    check_error([] { norms().get("rms_norm")(); }, {"RMSNorm", "0"});
  }

  TEST_CASE("a layer of a decoder is made of names, in C++ and in JSON") {
    add_ours();
    const Json options = Json::parse(R"({"embed_dim": 8, "num_heads": 2, "max_seq_len": 6,
        "attention": "MultiHeadAttention", "feed_forward": "ClassicFFN", "norm": "rms_norm",
        "norm_eps": 0.125, "ff_multiplier": 3})");
    Json json = Json::object();
    json["type"] = "TransformerBlock";
    json["options"] = options;
    const Ref<Module> block = build(json);
    CHECK(block->get<AttentionModule>("blocks.0.block.blocks.1")->type_name() ==
          "MultiHeadAttention");
    CHECK(block->get<RMSNormModule>("blocks.1.block.blocks.0")->options.eps == 0.125);
    CHECK(*block->get<ClassicFFNModule>("blocks.1.block.blocks.1")->options.hidden_dim == 24);
    CHECK(describe(*block) == describe(*TransformerBlock({.embed_dim = 8,
                                                          .num_heads = 2,
                                                          .max_seq_len = 6,
                                                          .ff_multiplier = 3,
                                                          .attention = "MultiHeadAttention",
                                                          .feed_forward = "ClassicFFN",
                                                          .norm = "rms_norm",
                                                          .norm_eps = 0.125})));
    CHECK(describe(*build(describe(*block))) == describe(*block));
    check_error([] { TransformerBlock(8, 2, 6, {.feed_forward = "SwiGLU"}); },
                {"feed-forward layer", "SwiGLU", "SwiGLUFFN"});
    check_error([] { TransformerBlock(8, 2, 6, {.norm = "no_norm"}); }, {"norm", "no_norm"});
  }

  TEST_CASE("a small language model has its norm everywhere, and is as before without a choice") {
    add_ours();
    const LMOptions plain{
        .vocab_size = 11, .embed_dim = 8, .num_heads = 2, .num_layers = 1, .max_seq_len = 6};
    CHECK_FALSE(describe(*LM(plain)).at("children").at("blocks.2").contains("children"));
    LMOptions other = plain;
    other.norm = "scale_norm";
    other.feed_forward = "GeGLUFFN";
    const auto model = LM(other);
    CHECK(model->get("blocks.2.blocks.0")->type_name() == "scale_norm");
    CHECK(model->get("blocks.1.stack.0.blocks.1.block.blocks.1")->type_name() == "GeGLUFFN");
  }
}
