// Whole models of every family: as OpenLanguageModel and transformers compute them, and training.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include <olm/autograd/ops/select.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/attention.h>
#include <olm/nn/generate.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/optim.h>
#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

using Named = std::map<std::string, Tensor>;

/// A fixture family_<name>.safetensors, and the configuration that it was made with.
struct Case {
  std::string name;
  DecoderConfig config;
  bool olm_keys = true;  ///< else the keys are this library's
};

DecoderConfig small(const std::string& family) {
  return {.family = family,
          .vocab_size = 64,
          .embed_dim = 32,
          .intermediate_size = 40,
          .num_layers = 2,
          .num_heads = 4,
          .max_seq_len = 16,
          .dropout = 0};
}

DecoderConfig grouped(const std::string& family, bool tie = true) {
  DecoderConfig c = small(family);
  c.num_kv_heads = 2;
  c.tie_weights = tie;
  return c;
}

DecoderConfig with(DecoderConfig c, void (*change)(DecoderConfig&)) {
  change(c);
  return c;
}

/// Where the windows of Gemma's and OLMo's layers are.
void windowed(DecoderConfig& c) {
  c.head_dim = 10;
  c.sliding_window = 4;
}

std::vector<Case> olm_cases() {
  return {
      {"gpt2", with(small("gpt2"), [](DecoderConfig& c) { c.intermediate_size.reset(); })},
      {"llama", with(small("llama"), [](DecoderConfig& c) { c.rope_theta = 100; })},
      {"llama3", grouped("llama3", false)},
      {"qwen2", with(grouped("qwen2"), [](DecoderConfig& c) { c.rms_norm_eps = 1e-3; })},
      {"phi3", with(grouped("phi3", false), [](DecoderConfig& c) { c.activation = "geglu"; })},
      {"phi4", grouped("phi4")},
      {"gemma2", with(grouped("gemma2"),
                      [](DecoderConfig& c) {
                        windowed(c);
                        c.attn_logit_softcap = 4;
                        c.final_logit_softcap = 15;
                        c.query_pre_attn_scalar = 7;
                      })},
      {"olmo", small("olmo")},
      {"opt", small("opt")},
      {"gemma3", with(grouped("gemma3"),
                      [](DecoderConfig& c) {
                        windowed(c);
                        c.num_layers = 3;
                        c.sliding_window_pattern = 3;
                        c.local_rope_theta = 50;
                        c.rope_theta = 900;
                      })},
      {"olmo3", with(grouped("olmo3", false),
                     [](DecoderConfig& c) {
                       c.sliding_window = 3;
                       c.sliding_window_pattern = 2;
                     })},
      {"qwen3_moe", with(grouped("qwen3_moe"),
                         [](DecoderConfig& c) {
                           c.num_experts = 4;
                           c.moe_intermediate_size = 24;
                         })},
  };
}

/// What published weights want beside OpenLanguageModel's form of a Gemma.
void published_gemma(DecoderConfig& c) {
  windowed(c);
  c.query_pre_attn_scalar = 7;
  c.gelu_tanh = true;
  c.norm_plus_one = true;
}

void few_experts(DecoderConfig& c) {
  c.num_experts = 4;
  c.moe_intermediate_size = 20;
  c.rope_theta = 400;
  c.rms_norm_eps = c.family == "mixtral" ? 1e-5 : 1e-6;
}

/// With latent queries, and experts in groups of which a token uses some.
void published_deepseek(DecoderConfig& c) {
  c.tie_weights = false;
  c.rope_theta = 600;
  c.num_experts = 6;
  c.moe_intermediate_size = 12;
  c.n_group = 3;
  c.topk_group = 2;
  c.routed_scaling_factor = 1.7;
  c.q_lora_rank = 14;
  c.kv_lora_rank = 12;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 6;
  c.v_head_dim = 10;
}

std::vector<Case> vendor_cases() {
  return {
      {"hf_llama3",
       with(grouped("llama3"),
            [](DecoderConfig& c) {
              c.rope_theta = 500;
              c.rms_norm_eps = 1e-6;
              c.rope_pairing = "halves";
              c.rope_scaling = {.scaling_type = "llama3",
                                .scaling_factor = 4,
                                .original_max_seq_len = 8,
                                .low_freq_factor = 1,
                                .high_freq_factor = 4};
            }),
       false},
      {"hf_mistral",
       with(grouped("mistral", false),
            [](DecoderConfig& c) {
              c.head_dim = 6;
              c.sliding_window = 4;
              c.rope_theta = 500;
              c.rms_norm_eps = 1e-6;
            }),
       false},
      {"hf_qwen3",
       with(grouped("qwen3"),
            [](DecoderConfig& c) {
              c.head_dim = 12;
              c.rope_theta = 300;
            }),
       false},
      {"hf_gemma2",
       with(grouped("gemma2"),
            [](DecoderConfig& c) {
              published_gemma(c);
              c.attn_logit_softcap = 4;
              c.final_logit_softcap = 15;
            }),
       false},
      {"hf_gemma3",
       with(grouped("gemma3"),
            [](DecoderConfig& c) {
              published_gemma(c);
              c.sliding_window_pattern = 2;
              c.local_rope_theta = 50;
              c.rope_theta = 900;
            }),
       false},
      {"hf_olmo2", with(grouped("olmo2", false), [](DecoderConfig& c) { c.rope_theta = 200; }),
       false},
      {"hf_mixtral", with(grouped("mixtral", false), few_experts), false},
      {"hf_qwen3_moe", with(grouped("qwen3_moe", false), few_experts), false},
      {"hf_deepseek_v3", with(small("deepseek_v3"), published_deepseek), false},
  };
}

/// Tensors of a file below a folder, under this library's keys.
Named below(const SafetensorsFile& file, const std::string& folder, const Case& c) {
  Named found;
  for (const std::string& name : file.names())
    if (name.starts_with(folder)) found[name.substr(folder.size())] = raw::clone(file.tensor(name));
  return c.olm_keys ? keys_from_olm(c.config.family, found) : found;
}

/// A gradient that cancels, as a key bias's does, is held against a thousandth of all.
void check_gradients(Module& model, const Named& wanted, const FixtureCase& fixture) {
  double all = 0;
  for (const auto& [key, tensor] : wanted) all = std::hypot(all, norm(to_host<double>(tensor)));
  REQUIRE(wanted.size() == model.named_parameters().size());
  for (const auto& [key, reference] : wanted) {
    const std::vector<double> exact = to_host<double>(reference);
    const Tensor gradient = grad(model.parameter(key).tensor());
    if (!gradient.defined()) {  // of an expert that no token chose
      CHECK_MESSAGE(norm(exact) == 0, key);
      continue;
    }
    std::vector<double> got = to_host<double>(gradient);
    REQUIRE(got.size() == exact.size());
    for (size_t i = 0; i < got.size(); ++i) got[i] -= exact[i];
    const double relative = norm(got) / std::max(norm(exact), 1e-3 * all);
    CHECK_MESSAGE(relative < 1e-4, key, ": ", relative);
    record_fixture(fixture, FixturePart::gradient, relative, 1e-4);
  }
}

/// Ten steps of SGD on one batch, which is learned by heart: what is left is held against the
/// first. Each step adds rounding to the weights.
void check_losses(const Case& c, Module& model, const SafetensorsFile& file, const Tensor& ids,
                  const Tensor& targets) {
  model.zero_grad();
  SGD optimizer(model.parameters(), {.lr = 0.05});
  const std::vector<double> wanted = to_host<double>(file.tensor("losses"));
  double tolerance = 0;
  for (const double exact : wanted) {
    tolerance += 1e-5;
    Context ctx;
    const Tensor loss = model.loss(ids, targets, ctx);
    const double apart = std::abs(loss.item<double>() - exact) / wanted[0];
    CHECK_MESSAGE(apart < tolerance, c.name, ": ", apart, " at a loss of ", exact);
    backward(loss);
    optimizer.step();
  }
  CHECK(wanted.back() < 0.7 * wanted[0]);
}

void check_family(const Case& c) {
  INFO(c.name);
  const FixtureCase recorded{"family_" + c.name + ".safetensors", c.name};
  const SafetensorsFile file = SafetensorsFile::open(fixture(recorded.file));
  const auto model = DecoderModel(c.config);
  model->load_state_dict(below(file, "param/", c));
  model->to(test_device());
  const Tensor ids = on_test_device(file.tensor("ids"));
  const Tensor targets = on_test_device(file.tensor("targets"));
  {
    const NoGrad guard;
    const std::vector<double> got = to_host<double>(model(ids));
    const std::vector<double> wanted = to_host<double>(file.tensor("logits"));
    REQUIRE(got.size() == wanted.size());
    double apart = 0, largest = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      apart = std::max(apart, std::abs(got[i] - wanted[i]));
      largest = std::max(largest, std::abs(wanted[i]));
    }
    CHECK_MESSAGE(apart <= 1e-5 * largest, c.name, ": logits ", apart, " of ", largest);
    record_fixture(recorded, FixturePart::output, apart / largest, 1e-5);
  }
  Context ctx;
  const Tensor loss = model->loss(ids, targets, ctx);
  const double loss_error = loss.item<double>() / file.tensor("loss").item<double>() - 1;
  CHECK(std::abs(loss_error) < 1e-5);
  record_fixture(recorded, FixturePart::output, std::abs(loss_error), 1e-5);
  backward(loss);
  check_gradients(*model, below(file, "grad/", c), recorded);
  check_losses(c, *model, file, ids, targets);
}

/// Ids that follow one another: something can be learned in a few steps.
Tensor sequence(int64_t batch, int64_t time, int64_t vocab) {
  std::vector<int64_t> ids;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < time; ++t) ids.push_back((5 * b + 3 * t) % vocab);
  return from_host(ids, {batch, time});
}

/// The default configuration of a family with a small vocabulary and windows inside the sequence.
ModelConfig tiny(const std::string& family) {
  ModelConfig config = families().get(family);
  auto& c = config.as<DecoderConfig>();
  c.vocab_size = 17;
  c.max_seq_len = 24;
  c.dropout = 0;
  if (decoders().get(family).defaults.sliding_window) c.sliding_window = 5;
  return config;
}

}  // namespace

TEST_SUITE("nn/families") {
  TEST_CASE("logits, gradients and ten losses are OpenLanguageModel's") {
    for (const Case& c : olm_cases()) check_family(c);
  }

  TEST_CASE("the published form of a family is what transformers computes") {
    for (const Case& c : vendor_cases()) check_family(c);
  }

  TEST_CASE("every family trains, is saved and goes on as it was") {
    for (const std::string& family : decoders().names()) {
      INFO(family);
      const ModelConfig config = tiny(family);
      const Ref<Module> model = config.make();
      config.init(*model, {.seed = 3});
      AdamW optimizer(model->parameters(), {.lr = 1e-2, .clip_norm = 1});
      const Tensor ids = sequence(3, 21, 17);
      double first = 0, last = 0;
      for (int step = 0; step < 12; ++step) {
        Context ctx;
        const Tensor loss = model->loss(slice(ids, 1, 0, 20), slice(ids, 1, 1), ctx);
        last = loss.item<double>();
        if (step == 0) first = last;
        backward(loss);
        optimizer.step();
      }
      CHECK(std::abs(first - std::log(17.0)) < 0.5);
      CHECK(last < 0.5 * first);
      const TempFolder folder;
      save(*model, folder.path());
      const Ref<Module> again = load(folder.path());
      GenerateOptions o{.tokens = 40, .temperature = 0, .context = 24};
      const std::vector<int32_t> prompt{0, 3, 6}, cached = generate(again, prompt, o);
      CHECK(cached == generate(model, prompt, o));
      o.use_cache = false;
      CHECK(cached == generate(model, prompt, o));
    }
  }

  TEST_CASE("keys of OpenLanguageModel lead to those here") {
    const auto same = [](const char* family, const std::string& theirs, const std::string& ours) {
      CHECK(key_from_olm(family, theirs) == ours);
    };
    const std::string layer = "blocks.1.stack.7.";
    same("gpt2", "blocks.2.blocks.0.gamma", "blocks.2.blocks.0.gamma");
    same("gemma2", layer + "self_attn.q_proj.weight",
         layer + "blocks.0.block.blocks.1.q_proj.weight");
    same("gemma2", layer + "post_feedforward_layernorm.weight",
         layer + "blocks.1.block.blocks.2.weight");
    same("llama", layer + "self_attn.q_proj.weight", layer + "self_attn.q_proj.weight");
    same("gemma3", "transformer_blocks.7.mlp.up_proj.weight",
         layer + "blocks.1.block.blocks.1.up_proj.weight");
    same("gemma3", "blocks.1.weight", "blocks.2.weight");
    same("gemma3", "blocks.2.blocks.1.weight", "blocks.3.blocks.1.weight");
    same("olmo3", layer + "mlp.up_proj.weight", layer + "blocks.1.block.blocks.0.up_proj.weight");
    same("deepseek_v3", "transformer_blocks.7.ffn.router.gate.weight",
         layer + "blocks.1.block.blocks.1.router.gate.weight");
    same("opt", "token_embedding.embedding.weight", "");
    same("opt", "blocks.5.blocks.1.weight", "blocks.5.blocks.1.weight");
    same("lm", layer + "blocks.0.blocks.1.block.blocks.0.gamma",
         layer + "blocks.1.block.blocks.0.gamma");
    CHECK(keys_from_olm("opt", {{"lm_head.blocks.0.gamma", {}}, {"blocks.4.gamma", {}}}).size() ==
          1);
  }

  TEST_CASE("a family of one's own is a row") {
    add_family({.name = "mine",
                .defaults = {.embed_dim = 48, .bias = true, .activation = "gelu"},
                .keys = {"head_dim", "num_kv_heads"}});
    const auto model = families().get("mine").make();
    CHECK(model->parameter("blocks.0.embedding.weight").shape() == Shape{256, 48});
    CHECK(model->parameter("blocks.1.stack.1.blocks.1.block.blocks.1.up_proj.bias").shape() ==
          Shape{192});
    CHECK(model_preset("Gemma2_2B").in_family("mine").as<DecoderConfig>().head_dim == 256);
    DecoderConfig c = small("mine");
    c.bias = false;
    check_error([&] { DecoderModel(c); }, {"mine", "no bias"});
  }

  TEST_CASE("a token costs what the experts that it is sent to cost") {
    DecoderConfig c = small("deepseek_v3");
    c.num_experts = 8;
    const auto flops = [&] { return forward_flops_per_token(*DecoderModel(c), 16); };
    const double before = flops();
    c.num_experts = 16;
    CHECK(flops() - before == doctest::Approx(2 * 8 * 32));  // the router's matrix alone
    c.top_k = 3;
    CHECK(flops() - before == doctest::Approx(2 * (8 * 32 + 3 * 32 * 64)));
    CHECK(summary(*DecoderModel(c)).find("experts") != std::string::npos);
  }

  TEST_CASE("RoPE is scaled where it has no base of windows' own") {
    DecoderConfig c = grouped("gemma3");
    c.sliding_window_pattern = 2;
    c.rope_scaling = {.scaling_type = "linear", .scaling_factor = 8};
    const auto model = DecoderModel(c);
    const auto scaling = [&](const char* layer) {
      const std::string path = std::string("blocks.1.stack.") + layer + ".blocks.0.block.blocks.1";
      return model->get<AttentionModule>(path)->options.rope_scaling.scaling_type.value();
    };
    CHECK(scaling("0") == "none");
    CHECK(scaling("1") == "linear");
    ModelConfig again = families().get("gemma3");
    from_json(to_json(ModelConfig(c)), again, "again");
    CHECK(again.as<DecoderConfig>().rope_scaling.scaling_factor == 8);
    c.rope_scaling.scaling_factor = -1;
    check_error([&] { DecoderModel(c); }, {"gemma3.rope_scaling.scaling_factor", "above 0"});
    c = grouped("phi4");
    c.rope_scaling.scaling_type = "linear";
    check_error([&] { DecoderModel(c); }, {"phi4", "no rope_scaling"});
  }
}
