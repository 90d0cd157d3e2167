#include <doctest/doctest.h>

#include <unistd.h>
#include <cmath>
#include <filesystem>

#include <olm/autograd/ops/embedding.h>
#include <olm/autograd/ops/linear.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

const DecoderConfig kTinyGPT2{.family = "gpt2",
                              .vocab_size = 11,
                              .embed_dim = 8,
                              .num_layers = 2,
                              .num_heads = 2,
                              .max_seq_len = 6,
                              .dropout = 0};
DecoderConfig tiny_llama(int64_t kv_heads, bool tie) {
  return {.family = "llama",
          .vocab_size = 11,
          .embed_dim = 8,
          .intermediate_size = 20,
          .num_layers = 2,
          .num_heads = 4,
          .num_kv_heads = kv_heads,
          .max_seq_len = 6,
          .tie_weights = tie};
}

struct ToyConfig {
  static constexpr const char* family = "toy";
  int64_t vocab_size = 2, max_seq_len = 8, width = 2;
  void fields(auto& v) {
    v("vocab_size", vocab_size);
    v("max_seq_len", max_seq_len);
    v("width", width);
  }
};
Ref<BlockModule> toy_model(const ToyConfig& c) { return Block({Embedding(c.vocab_size, c.width)}); }
void fill_with_ones(Module& model, const ToyConfig&, const InitOptions&) {
  model.for_each_parameter([](const std::string&, Parameter& p) { p.assign(ones(p.shape())); });
}

}  // namespace

TEST_SUITE("nn/models") {
  TEST_CASE("GPT-2 takes any width of its feed-forward layers") {
    DecoderConfig config = kTinyGPT2;
    const std::string key = "blocks.1.stack.0.blocks.1.block.blocks.1.up_proj.weight";
    CHECK(GPT2Model(config)->parameter(key).shape() == Shape{32, 8});
    config.intermediate_size = 20;
    CHECK(GPT2Model(config)->parameter(key).shape() == Shape{20, 8});
  }

  TEST_CASE("what weights say about tied keys must hold in the model") {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("olm-tied-" + std::to_string(::getpid())))
            .string();
    const auto model = Block({Linear(2, 2, {.bias = false}), Linear(2, 3, {.bias = false})});
    init(*model, {.seed = 1});
    const auto refuse = [&](const char* tied, const std::vector<std::string>& parts) {
      std::vector<NamedTensor> tensors{{"blocks.0.weight", ones({2, 2})}};
      if (std::string(tied).find("blocks.1.weight") == std::string::npos)
        tensors.emplace_back("blocks.1.weight", ones({3, 2}));
      write_safetensors(path, tensors, {{"tied", tied}});
      check_error([&] { load_weights(*model, path); }, parts);
      std::filesystem::remove(path);
    };
    refuse("{", {path, "tied"});
    refuse("[]", {path, "tied", "no object"});
    refuse("{\"blocks.1.weight\": 3}", {path, "blocks.1.weight", "3", "not there"});
    refuse("{\"blocks.1.weight\": \"none\"}", {path, "none", "not there"});
    refuse("{\"blocks.1.weight\": \"blocks.0.weight\"}",
           {path, "blocks.1.weight", "[3,2]", "[2,2]"});
    refuse("{\"none\": \"blocks.0.weight\"}", {path, "none"});
  }

  TEST_CASE("names of both namespaces can be used side by side") {
    const LinearOptions of_the_op{.activation = Activation::relu};
    const LinearLayerOptions of_the_layer{.bias = false};
    const auto layer = Linear(2, 3, of_the_layer);
    init(*layer);
    CHECK(linear(ones({1, 2}), layer->weight.tensor(), {}, of_the_op).shape() == Shape{1, 3});
    const EmbeddingOptions in_bf16{.dtype = bf16};
    CHECK(embedding(arange(2), ones({2, 3}), in_bf16).dtype() == bf16);
    CHECK(EmbeddingLayerOptions{.vocab_size = 2}.vocab_size == 2);
  }

  TEST_CASE("values and gradients are OLM's") {
    check_layer_parity("GPT2Model", GPT2Model(kTinyGPT2));
    check_layer_parity("Llama2Model", Llama2Model(tiny_llama(4, true)));
    DecoderConfig c = tiny_llama(2, false);
    c.rope_theta = 500000;
    check_layer_parity("Llama3Model", Llama3Model(c));
  }

  TEST_CASE("a configuration goes by its family, whatever its type") {
    ModelConfig config = tiny_llama(4, true);
    CHECK(config.family() == "llama");
    CHECK(config.max_seq_len() == 6);
    config.vocab_size() = 13;
    CHECK(config.make()->parameter("blocks.0.embedding.weight").shape() == Shape{13, 8});
    check_error([&] { config.as<ToyConfig>(); }, {"llama", "another type"});
    const ModelConfig copy = config;
    config.as<DecoderConfig>().embed_dim = 16;
    CHECK(copy.as<DecoderConfig>().embed_dim == 8);
  }

  TEST_CASE("another family takes what is set, has its own of the rest, and drops no size") {
    const ModelConfig config = tiny_llama(4, true);
    const auto gpt2 = config.in_family("gpt2").as<DecoderConfig>();
    CHECK(gpt2.embed_dim == 8);
    CHECK(gpt2.vocab_size == 11);
    CHECK(gpt2.intermediate_size == 20);
    CHECK(gpt2.completed().bias == true);
    CHECK(gpt2.completed().dropout == 0.1);
    const auto qwen2 = config.in_family("qwen2").as<DecoderConfig>();
    CHECK(qwen2.num_kv_heads == 4);
    CHECK(qwen2.completed().rope_theta == 1e6);
    CHECK(ModelConfig(gpt2).in_family("llama").as<DecoderConfig>().num_kv_heads == std::nullopt);
    check_error([&] { config.in_family("bert"); }, {"bert", "gpt2, "});
    const ModelConfig sharing = tiny_llama(2, true), headed = model_preset("Gemma2_9B");
    check_error([&] { sharing.in_family("gpt2"); }, {"gpt2 has no num_kv_heads", "2", "llama"});
    check_error([&] { headed.in_family("phi4"); }, {"phi4 has no head_dim", "256", "gemma2"});
    CHECK(headed.in_family("qwen3").as<DecoderConfig>().head_dim == 256);
  }

  TEST_CASE("a family of one's own is trained as the others are") {
    families().add(ToyConfig::family, ModelConfig(ToyConfig(), toy_model, fill_with_ones));
    const ModelConfig config = ToyConfig{.vocab_size = 3, .width = 4};
    const auto model = config.make();
    config.init(*model);
    CHECK(to_host<float>(model->parameter("blocks.0.embedding.weight").tensor()) ==
          std::vector<float>(12, 1.0f));
  }

  TEST_CASE("values outside their range are refused by name") {
    const auto refuse = [](void (*change)(DecoderConfig&), const std::vector<std::string>& parts) {
      DecoderConfig c = tiny_llama(4, true);
      change(c);
      check_error([&] { DecoderModel(c); }, parts);
    };
    refuse([](DecoderConfig& c) { c.num_layers = 0; }, {"llama.num_layers", "1 to 10000", "0"});
    refuse([](DecoderConfig& c) { c.embed_dim = 0; }, {"llama.embed_dim", "1 to"});
    refuse([](DecoderConfig& c) { c.rope_theta = -1; },
           {"llama.rope_theta", "finite", "above 0", "-1"});
    refuse([](DecoderConfig& c) { c.num_kv_heads = 0; }, {"llama.num_kv_heads", "1 to"});
    refuse([](DecoderConfig& c) { c.dropout = std::nan(""); }, {"llama.dropout", "0 to 0.99"});
    refuse([](DecoderConfig& c) { c.sliding_window = 3; }, {"llama", "no sliding_window"});
    refuse([](DecoderConfig& c) { c.family = "phi3", c.activation = "relu6"; },
           {"phi3.activation", "swiglu", "relu6"});
    refuse([](DecoderConfig& c) { c.family = "bert"; }, {"bert", "gpt2, "});
    DecoderConfig config = tiny_llama(4, true);
    check_error([&] { from_json(Json::parse(R"({"dropout": 2})", "x"), config, "file"); },
                {"file: dropout", "0 to 0.99", "2"});
  }

  TEST_CASE("sizes left out follow from the others") {
    const auto model = Llama2Model(
        {.vocab_size = 5, .embed_dim = 96, .num_layers = 1, .num_heads = 3, .max_seq_len = 8});
    const std::string layer = "blocks.1.stack.0.blocks.";
    CHECK(model->parameter(layer + "0.block.blocks.1.k_proj.weight").shape() == Shape{96, 96});
    CHECK(model->parameter(layer + "1.block.blocks.1.down_proj.weight").shape() == Shape{96, 256});
  }

  TEST_CASE("modules say what a token costs") {
    const auto model = GPT2Model(kTinyGPT2);
    // Each matrix is multiplied once, the embedding as that of the head; positions are looked up.
    const double matrices = 11 * 8 + 2 * 12 * 8 * 8;
    CHECK(forward_flops_per_token(*model, 6) == 2 * matrices + 2 * (2 * 6 * 8));
    // Scores with all keys, where nothing is masked.
    CHECK(forward_flops_per_token(*FlashAttention({.embed_dim = 8, .num_heads = 2}), 6) ==
          2 * 4 * 64 + 4 * 6 * 8);
    const auto looked_up = Embedding(11, 8);
    CHECK(forward_flops_per_token(*looked_up, 6) == 0);
  }

  TEST_CASE("on meta the largest preset says its shapes") {
    const auto model = Llama3_1_405B();
    init(model, {.device = meta});
    const NoGrad guard;
    const Tensor logits = model(empty({1, 16}, {.dtype = i64, .device = meta}));
    CHECK(logits.shape() == Shape{1, 16, 128256});
  }

  TEST_CASE("the vendor's GELU and a GPT-2 without biases are a field away") {
    DecoderConfig c = kTinyGPT2;
    c.gelu_tanh = true;
    c.bias = false;
    const auto model = GPT2Model(c);
    CHECK(model->get("blocks.1.stack.0.blocks.1.block.blocks.1.act")->type_name() == "GELUTanh");
    CHECK(model->num_parameters() == GPT2Model(kTinyGPT2)->num_parameters() - 2 * 9 * 8);
  }

  TEST_CASE("ties and replaced parts survive saving") {
    const std::string folder = "/tmp/olm_models_test_" + std::to_string(getpid());
    const auto model =
        LM({.vocab_size = 11, .embed_dim = 8, .num_heads = 2, .num_layers = 1, .max_seq_len = 6});
    model->replace("blocks.2.blocks.0", RMSNorm(8));
    model->replace("blocks.1.stack.0.blocks.1.block.blocks.1", ClassicFFN(8));
    model->replace("blocks.1.stack.0.blocks.1.block.blocks.1.act", PReLU());
    init(model, {.seed = 3});
    save(model, folder);
    const Ref<Module> again = load(folder), unfilled = load_architecture(folder + "/model.json");
    CHECK(unfilled->num_parameters() == model->num_parameters());
    CHECK(unfilled->parameters().size() == model->parameters().size());
    Json json = read_json(folder + "/model.json");
    for (const char* first : {"none", "blocks.2.blocks.0.weight"}) {
      json["tied"]["blocks.2.blocks.1.weight"] = first;
      write_json(folder + "/model.json", json);
      check_error([&] { load_architecture(folder + "/model.json"); }, {"model.json"});
    }
    std::filesystem::remove_all(folder);
    CHECK(again->num_parameters() == model->num_parameters());
    CHECK(again->parameter("blocks.2.blocks.1.weight")
              .is_tied_to(again->parameter("blocks.0.embedding.weight")));
    const Tensor ids = from_host<int64_t>({1, 2, 3, 4}, {1, 4});
    const NoGrad guard;
    check_same_bits(again(ids), model(ids), "loaded");
  }

  TEST_CASE("models describe themselves and are rebuilt") {
    const std::vector<Ref<Module>> originals{GPT2Model(kTinyGPT2), Llama2Model(tiny_llama(4, true)),
                                             Llama3Model(tiny_llama(2, false))};
    for (const Ref<Module>& model : originals) {
      init(*model, {.seed = 3});
      const Json description = describe(*model);
      const Ref<Module> again = build(Json::parse(description.dump()));
      CHECK(describe(*again) == description);
      again->load_state_dict(model->state_dict());
      const Tensor ids = from_host<int64_t>({1, 2, 3, 4}, {1, 4});
      const NoGrad guard;
      check_same_bits(again(ids), model(ids), "rebuilt");
    }
  }

  TEST_CASE("windows are where the pattern says, with a RoPE of their own") {
    const auto model = DecoderModel({.family = "gemma3",
                                     .vocab_size = 5,
                                     .embed_dim = 8,
                                     .num_layers = 5,
                                     .num_heads = 2,
                                     .max_seq_len = 8,
                                     .sliding_window = 3,
                                     .sliding_window_pattern = 2});
    for (int64_t i = 0; i < 5; ++i) {
      const std::string path = "blocks.1.stack." + std::to_string(i) + ".blocks.0.block.blocks.1";
      const auto attention = model->get<AttentionModule>(path);
      CHECK(attention->options.window_size.has_value() == (i % 2 == 0));
      CHECK(attention->options.rope_theta == (i % 2 == 0 ? 1e4 : 1e6));
      // Of 8 · 8 scores a window of 3 leaves out two triangles of 5, and causality half of the
      // rest.
      const double keys = i % 2 == 0 ? (8.0 - 25.0 / 8) / 2 : 4;
      CHECK(attention->flops_per_token(8) == doctest::Approx(2 * keys * 2 * (4 + 4)));
    }
  }
}
