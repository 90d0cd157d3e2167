// Configurations of decoders: what they say, in which families, and read from a model.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/engine/raw.h>
#include <olm/nn/attention.h>
#include <olm/nn/description.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/linear.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

DecoderConfig small(const std::string& family) {
  return {.family = family,
          .vocab_size = 11,
          .embed_dim = 16,
          .num_layers = 3,
          .num_heads = 4,
          .max_seq_len = 12};
}

/// Reads the configuration of the model that `config` gives, which must give the same model.
DecoderConfig read_back(const DecoderConfig& config, const std::string& hint) {
  const auto model = DecoderModel(config);
  const DecoderConfig read = decoder_config_of(*model, hint);
  CHECK(describe(*DecoderModel(read)) == describe(*model));
  CHECK(read.tie_weights == config.tie_weights);
  CHECK(read.normalized().given().dump() == config.normalized().given().dump());
  return read;
}

}  // namespace

TEST_SUITE("nn/decoder_config") {
  TEST_CASE("the configuration of every preset is read from its model, in both pairings") {
    for (const ModelPreset& preset : model_presets()) {
      INFO(preset.name);
      DecoderConfig config = preset.config.as<DecoderConfig>();
      config.num_layers = std::min<int64_t>(config.num_layers, 8);
      CHECK(read_back(config, config.family).family == config.family);
      read_back(config, "");
      if (to_json(config).contains("rope_pairing")) {
        config.rope_pairing = "halves";
        CHECK(read_back(config, config.family).rope_pairing == "halves");
      }
    }
  }

  TEST_CASE("that of every family as well, and what has no key there is read as another") {
    for (const std::string& name : decoders().names()) {
      INFO(name);
      DecoderConfig config = small(name);
      CHECK(read_back(config, name).family == name);
      config.tie_weights = false;
      config.dropout = 0.25;
      CHECK(read_back(config, name).dropout == 0.25);
    }
    DecoderConfig biased = small("llama");
    biased.attention_bias = true;
    CHECK(read_back(biased, "mistral").family != "mistral");
    CHECK(read_back(biased, "llama").attention_bias == true);
    DecoderConfig windows = small("gemma2");
    windows.window_layers = {1};
    CHECK(read_back(windows, "gemma2").window_layers == std::vector<int64_t>{1});
    DecoderConfig uncapped = small("decoder");
    uncapped.post_norm = true;
    uncapped.sliding_window = 4;
    uncapped.activation = "geglu";
    uncapped.scale_embedding = true;
    CHECK(read_back(uncapped, "gemma2").family == "decoder");
  }

  TEST_CASE("configurations of one model are equal once they are normalized") {
    DecoderConfig open = small("decoder"), closed = small("decoder");
    closed.sliding_window = 4;
    closed.sliding_window_pattern = 1;  // no layer has it
    closed.head_dim = 4;
    closed.num_kv_heads = 4;
    closed.local_rope_theta = 7;
    closed.top_k = 5;
    closed.rope_scaling.yarn_beta = 9;  // of another type
    CHECK(open.normalized().given() == closed.normalized().given());
    closed.sliding_window_pattern = 2;
    CHECK(closed.normalized().window_layers == std::vector<int64_t>{0, 2});
    CHECK(closed.normalized().local_rope_theta == 7.0);
  }

  TEST_CASE("what no configuration gives is named") {
    const auto refuse = [](const Ref<BlockModule>& model, const std::vector<std::string>& parts) {
      check_error([&] { decoder_config_of(*model); }, parts);
    };
    auto model = DecoderModel(small("llama"));
    model->replace("blocks.1.stack.1.blocks.1.block.blocks.1", SwiGLUFFN(16, {.hidden_dim = 5}));
    refuse(model, {"blocks.1.stack.1.blocks.1.block.blocks.1 has hidden_dim 5", "64"});
    model = DecoderModel(small("llama"));
    model->replace("blocks.1.stack.2.blocks.0.block.blocks.0", LayerNorm(16));
    refuse(model, {"blocks.1.stack.2.blocks.0.block.blocks.0 is a LayerNorm", "RMSNorm"});
    model = DecoderModel(small("llama"));
    model->replace("blocks.1.stack.0.blocks.0.block.blocks.1.q_proj", Linear(16, 16));
    refuse(model, {"blocks.1.stack.0.blocks.0.block.blocks.1.q_proj", "does not have"});
    refuse(Block({Linear(3, 3)}), {"no Embedding"});
    refuse(Block({Embedding(3, 4), OutputHead(4, 3)}), {"no Repeat"});
  }

  TEST_CASE("options of vendors' models reach the layers that they are of") {
    DecoderConfig c = small("decoder");
    c.attention_bias = true;
    c.mlp_bias = false;
    c.partial_rotary_factor = 0.5;
    c.sliding_window = 3;
    c.window_layers = {0, 2};
    const auto model = DecoderModel(c);
    const auto attention = [&](int layer) {
      return model->get<AttentionModule>("blocks.1.stack." + std::to_string(layer) +
                                         ".blocks.0.block.blocks.1");
    };
    CHECK(attention(0)->options.bias == true);
    CHECK(attention(1)->q_proj->module()->options_json().at("bias") == Json(true));
    CHECK(attention(0)->options.partial_rotary_factor == 0.5);
    CHECK(attention(0)->options.window_size == 3);
    CHECK(attention(1)->options.window_size == std::nullopt);
    CHECK(attention(2)->options.window_size == 3);
    CHECK_FALSE(
        model->get<GatedFFNModule>("blocks.1.stack.0.blocks.1.block.blocks.1")->options.bias);
    c.window_layers = {3};
    check_error([&] { DecoderModel(c); }, {"window_layers", "0 to 2", "3"});
    DecoderConfig gpt2 = small("gpt2");
    gpt2.layer_norm_eps = 1e-3;
    const auto head = DecoderModel(gpt2)->get<OutputHeadModule>("blocks.2");
    CHECK(dynamic_cast<LayerNormModule&>(*head->blocks.at(0)).options.eps == 1e-3);
  }

  TEST_CASE("Gemma's scale of embeddings is rounded as its weights were trained") {
    const auto tokens =
        Embedding({.vocab_size = 2, .embedding_dim = 3072, .scale = std::sqrt(3072.0)});
    tokens->weight.assign(full({2, 3072}, 1.125));
    const Tensor ids = from_host<int32_t>({1}, {1, 1});
    Context exact, half{.dtype = bf16};
    CHECK(to_host<float>(tokens(ids, exact))[0] == doctest::Approx(1.125 * std::sqrt(3072.0)));
    CHECK(to_host<float>(raw::cast(tokens(ids, half), f32))[0] == 62.5f);  // of 1.125 · 55.5
  }
}
