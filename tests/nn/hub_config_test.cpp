// config.json of every family that is read: to a configuration, and back.
#include <doctest/doctest.h>

#include <filesystem>

#include <olm/engine/file.h>
#include <olm/nn/hub/config_internal.h>
#include <olm/nn/hub/gguf_internal.h>
#include <olm/nn/hub/stored_internal.h>
#include <olm/nn/models.h>
#include <olm/nn/models/decoder_internal.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::hub;
using namespace olm::test;

namespace {

const std::string kHub = std::string(OLM_FIXTURES) + "/hub";

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kHub))
    if (std::filesystem::exists(entry.path() / "config.json"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string text_of(const std::string& name) {
  return read_file(kHub + "/" + name + "/config.json");
}
Json config_of(const std::string& name) { return Json::parse(text_of(name)); }

/// A configuration of a case with other values; a key with null text is taken out.
Json changed(const std::string& name, const std::string& key, const char* value) {
  const Json before = config_of(name);
  Json json = Json::object();
  for (const auto& [other, old] : before.members())
    if (other != key) json[other] = old;
  if (value) json[key] = Json::parse(value);
  return json;
}

DecoderConfig read(const Json& json) { return config_from_json(json).config; }

void refuse(const std::string& name, const std::string& key, const char* value,
            std::vector<std::string> parts) {
  INFO(name, " ", key, " ", value ? value : "absent");
  parts.push_back(key);
  check_error([&] { config_from_json(changed(name, key, value)); }, parts);
}

}  // namespace

TEST_SUITE("nn/hub_config") {
  TEST_CASE("what is understood survives reading and writing, digit by digit and in its order") {
    REQUIRE(cases().size() >= 18);
    for (const std::string& name : cases()) {
      INFO(name);
      const std::string text = text_of(name);
      const Json before = Json::parse(text);
      const ReadConfig read = config_from_json(before);
      const Json after = config_to_json(read.config, family_of(read.family), before);
      auto at = after.members().begin();
      for (const auto& [key, value] : before.members()) {
        CHECK_MESSAGE(at->first == key, key);
        CHECK_MESSAGE(at->second == value, key);
        const std::string line = text.substr(text.find("\"" + key + "\":"));
        if (!value.is_object() && !value.is_array())
          CHECK(text_like(after, text).find(line.substr(0, line.find_first_of(",\n"))) !=
                std::string::npos);
        ++at;
      }
      if (read.config.positions == "rope")
        for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters"})
          CHECK_MESSAGE(after.contains(key), key);
      CHECK(config_from_json(after).config.normalized().given() ==
            read.config.normalized().given());
      CHECK(Json::parse(text_like(after, text)) == after);
      CHECK(config_to_json(read.config, family_of(read.family), after) == after);
    }
  }

  TEST_CASE("written without a file before it, each says the same") {
    for (const std::string& name : cases()) {
      INFO(name);
      const ReadConfig read = config_from_json(config_of(name));
      const Json fresh = config_to_json(read.config, family_of(read.family), Json());
      const ReadConfig again = config_from_json(fresh);
      CHECK(again.config.normalized().given() == read.config.normalized().given());
      CHECK(again.not_understood == std::vector<std::string>{});
      CHECK(std::string(family_for(read.config, "").model_type).size() > 0);
    }
  }

  TEST_CASE("what a file leaves out is what transformers takes") {
    const Json defaults = read_json(kHub + "/defaults.json");
    CHECK(defaults.size() == hub::families().size());
    for (const auto& [family, config] : defaults.members()) {
      INFO(family);
      const Json bare = Json::parse("{\"model_type\": \"" + family + "\"}");
      const DecoderConfig own = read(bare), theirs = read(config);
      CHECK(own.normalized().given() == theirs.normalized().given());
      CHECK(config_from_json(config).not_understood == std::vector<std::string>{});
      const Json written = config_to_json(own, family_of(family), Json());
      for (const auto& [key, value] : config.members()) {
        const Json* mine = written.find(key);
        if (mine && key != "rope_parameters" && key != "max_window_layers" && !value.is_null())
          CHECK_MESSAGE(mine->dump() == value.dump(), key);
      }
    }
  }

  TEST_CASE("values that would change numbers are refused by key and value") {
    refuse("llama", "hidden_act", "\"quick_gelu\"", {"quick_gelu"});
    refuse("llama", "hidden_act", "\"relu\"", {"relu"});
    refuse("llama", "hidden_act", "3", {"a text", "3"});
    refuse("gpt2", "activation_function", "\"swish\"", {"swish"});
    refuse("gpt2", "scale_attn_by_inverse_layer_idx", "true", {"true"});
    refuse("gpt2", "reorder_and_upcast_attn", "true", {"true"});
    refuse("gpt2", "scale_attn_weights", "false", {"false"});
    refuse("gpt2", "add_cross_attention", "true", {"true"});
    refuse("llama", "pretraining_tp", "2", {"2"});
    refuse("llama", "quantization_config", "{\"bits\": 4}", {"quantised"});
    check_error([&] { read(changed("llama", "model_type", "\"falcon\"")); },
                {"falcon", "known are", "gpt2", "qwen3_moe"});
    refuse("llama", "model_type", nullptr, {"model_type", "none"});
    refuse("llama", "architectures", "[\"LlamaForSequenceClassification\"]",
           {"LlamaForSequenceClassification", "LlamaForCausalLM"});
    refuse("gemma3_text", "text_config", "{}", {"text_config"});
    refuse("gemma2", "use_bidirectional_attention", "true", {"true"});
    refuse("phi3", "attention_bias", "true", {"true"});
    refuse("qwen3_moe", "decoder_sparse_step", "2", {"2"});
    refuse("qwen3_moe", "mlp_only_layers", "[0]", {"[0]"});
    refuse("gemma2", "layer_types", "[\"sliding_attention\", \"chunked_attention\"]",
           {"chunked_attention", "full_attention"});
    refuse("gemma2", "layer_types", "[\"full_attention\"]", {"2 names", "1"});
    refuse("gemma3_text", "sliding_window_pattern", "0", {"above 0", "0"});
    refuse("llama", "partial_rotary_factor", "0.5", {"0.5", "llama"});
    refuse("phi3_partial", "partial_rotary_factor", "0.7", {"0.7", "even"});
  }

  TEST_CASE("RoPE that is not known is refused") {
    refuse("llama", "rope_scaling", "{\"rope_type\": \"ntk\", \"factor\": 2}", {"ntk", "llama3"});
    refuse("llama", "rope_scaling", "{\"rope_type\": \"linear\"}", {"linear", "factor"});
    refuse("llama", "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": -1}", {"-1"});
    refuse("llama", "rope_scaling", "[1]", {"object", "[1]"});
    refuse("llama", "rope_scaling", "{\"type\": \"default\", \"mrope_section\": [1]}",
           {"mrope_section"});
    refuse("llama", "rope_theta", "0", {"above 0"});
    refuse("llama", "rope_theta", "\"big\"", {"number", "big"});
    refuse("llama3", "rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": 8}",
           {"low_freq_factor"});
    refuse("llama_linear", "rope_parameters", "{\"rope_type\": \"linear\", \"factor\": 3}",
           {"contradict"});
    refuse("llama_linear", "rope_parameters",
           "{\"rope_type\": \"linear\", \"factor\": 2.5, \"rope_theta\": 7.0}",
           {"contradict", "100", "7"});
    refuse("phi3", "rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", {"linear", "longrope"});
    refuse("phi3", "rope_scaling",
           "{\"type\": \"su\", \"short_factor\": [1], \"long_factor\": [1]}", {"8 numbers", "1"});
    refuse("gemma3_text", "rope_parameters", "{\"rope_type\": \"default\"}", {"full_attention"});
    refuse("gemma3_text", "rope_parameters", "{\"sliding_attention\": {\"rope_type\": \"linear\"}}",
           {"linear", "default"});
  }

  TEST_CASE("sizes that do not fit are refused") {
    const auto wrong = [](const char* key, const char* value,
                          const std::vector<std::string>& parts) {
      INFO(key, " ", value);
      check_error([&] { config_from_json(changed("llama", key, value)); }, parts);
    };
    wrong("num_attention_heads", "3", {"3 heads", "32"});
    wrong("num_attention_heads", "0", {"num_heads", "0"});
    wrong("num_key_value_heads", "3", {"3 key and value heads", "4 heads"});
    wrong("num_key_value_heads", "0", {"num_kv_heads", "0"});
    wrong("hidden_size", "-32", {"embed_dim", "-32"});
    wrong("hidden_size", "\"32\"", {"embed_dim", "integer"});
    wrong("num_hidden_layers", "100000", {"num_layers", "10000"});
    wrong("vocab_size", "3000000000", {"vocab_size", "3000000000"});
    wrong("vocab_size", "2.5", {"vocab_size", "integer"});
    wrong("rms_norm_eps", "\"small\"", {"rms_norm_eps", "number"});
    check_error([&] { config_from_json(changed("mixtral", "num_experts_per_tok", "9")); },
                {"9 experts of 4"});
    check_error([&] { config_from_json(Json::parse("[]")); }, {"object"});
  }

  TEST_CASE("both spellings of RoPE mean the same, and rope_parameters wins") {
    const DecoderConfig former = read(config_of("llama_yarn"));
    CHECK(former.rope_theta == 10000.0);
    CHECK(former.rope_scaling.scaling_type == "yarn");
    CHECK(former.rope_scaling.original_max_seq_len == 16);
    CHECK(former.rope_pairing == "halves");
    Json both = config_to_json(former, family_of("llama"), Json());
    CHECK(both.at("rope_parameters").at("factor") == Json(4.0));
    CHECK(both.at("rope_scaling").at("rope_type") == Json("yarn"));
    for (const char* gone : {"rope_parameters", "rope_scaling"}) {
      Json one = Json::object();
      for (const auto& [key, value] : both.members())
        if (key != gone) one[key] = value;
      CHECK(read(one).normalized().given() == former.normalized().given());
    }
    Json json = config_of("llama");
    json["rope_parameters"] = Json::parse("{\"rope_type\": \"default\", \"rope_theta\": 5000}");
    CHECK(read(json).rope_theta == 5000.0);
    Json every = config_of("llama_yarn");
    every["rope_scaling"] = Json::parse(
        "{\"type\": \"yarn\", \"factor\": 3, \"original_max_position_embeddings\": 8, "
        "\"beta_fast\": "
        "20, \"beta_slow\": 2, \"mscale\": 0.5, \"mscale_all_dim\": 0.7, \"truncate\": false, "
        "\"attention_factor\": 1.5}");
    const RopeScalingOptions yarn = read(every).rope_scaling;
    CHECK(yarn.scaling_factor == 3.0);
    CHECK(yarn.original_max_seq_len == 8);
    CHECK(yarn.yarn_beta == 20.0);
    CHECK(yarn.yarn_alpha == 2.0);
    CHECK(yarn.mscale == 0.5);
    CHECK(yarn.mscale_all_dim == 0.7);
    CHECK(yarn.truncate == false);
    CHECK(yarn.attention_factor == 1.5);
    const DecoderConfig dynamic = read(config_of("llama_dynamic"));
    CHECK(dynamic.max_seq_len == 64);
    CHECK(dynamic.rope_scaling.original_max_seq_len == 16);
    const DecoderConfig gemma3 = read(config_of("gemma3_text"));
    CHECK(gemma3.rope_scaling.scaling_factor == 8.0);
    CHECK(gemma3.local_rope_theta == 300.0);
    CHECK(read(config_of("phi3")).rope_scaling.original_max_seq_len == 16);
    CHECK(read(config_of("phi3_partial")).partial_rotary_factor == 0.75);
  }

  TEST_CASE("which layers have a window") {
    const auto windows = [](const Json& json) { return read(json).normalized().window_layers; };
    using Layers = std::vector<int64_t>;
    CHECK(windows(config_of("mistral")) == Layers{0, 1});
    CHECK(windows(changed("mistral", "sliding_window", "null")) == Layers{});
    CHECK(windows(config_of("qwen2")) == Layers{1});
    CHECK(windows(changed("qwen2", "use_sliding_window", "false")) == Layers{});
    CHECK(windows(changed("qwen2", "layer_types", "[\"sliding_attention\", \"full_attention\"]")) ==
          Layers{0});
    CHECK(windows(config_of("gemma2")) == Layers{0});
    CHECK(windows(changed("gemma2", "layer_types",
                          "[\"full_attention\", \"sliding_attention\"]")) == Layers{1});
    CHECK(windows(config_of("gemma3_text")) == Layers{0});
    CHECK(windows(changed("gemma3_text", "sliding_window_pattern", nullptr)) == Layers{0, 1});
    CHECK(windows(config_of("qwen3")) == Layers{});
  }

  TEST_CASE("the vendor's form of a layer is set by itself") {
    const DecoderConfig gemma = read(config_of("gemma"));
    CHECK(gemma.gelu_tanh == true);  // though hidden_act is "gelu"
    CHECK(gemma.norm_plus_one == true);
    CHECK(gemma.scale_embedding == true);
    CHECK(gemma.tie_weights);
    const DecoderConfig gemma2 = read(config_of("gemma2"));
    CHECK(gemma2.family == "gemma2");
    CHECK(gemma2.norm_plus_one == true);
    CHECK(gemma2.attn_logit_softcap == 3.0);
    const DecoderConfig bare = read(changed("gemma2", "attn_logit_softcapping", "null"));
    CHECK(bare.attn_logit_softcap == std::nullopt);
    CHECK(read(config_of("gpt2")).gelu_tanh == true);
    CHECK(read(changed("gpt2", "activation_function", "\"gelu\"")).gelu_tanh == false);
    CHECK(read(config_of("gpt2")).normalized().intermediate_size == 128);
    CHECK(read(config_of("qwen2")).qkv_bias == true);
    CHECK(read(config_of("llama3")).mlp_bias == true);
    CHECK(read(config_of("qwen3_moe")).norm_topk_prob == false);
    CHECK(read(config_of("mixtral")).norm_topk_prob == true);
    CHECK(read(config_of("mixtral")).moe_intermediate_size == 20);
    CHECK(read(changed("llama", "num_key_value_heads", "null")).num_kv_heads.value_or(4) == 4);
    CHECK_FALSE(read(changed("llama", "tie_word_embeddings", nullptr)).tie_weights);
    CHECK(read(changed("gemma2", "tie_word_embeddings", nullptr)).tie_weights);
  }

  TEST_CASE("what is not understood is kept and named") {
    Json json = config_of("llama");
    json["auto_map"] = "x";
    json["rope_scaling"] = Json::parse("{\"type\": \"linear\", \"factor\": 2, \"finetuned\": 1}");
    const ReadConfig read = config_from_json(json);
    CHECK(read.not_understood ==
          std::vector<std::string>{"config.json: rope_scaling.finetuned", "config.json: auto_map"});
    DecoderConfig other = read.config;
    other.vocab_size = 200;
    const Json written = config_to_json(other, family_of("llama"), json);
    CHECK(written.at("auto_map") == Json("x"));
    CHECK(written.at("vocab_size") == Json(200));
    CHECK(written.at("rope_scaling") == json.at("rope_scaling"));
    CHECK(text_like(Json::parse("{\"a\": 1e6, \"b\": [2]}"), "{\"b\":[3],\"a\":1000000.0}") ==
          "{\n  \"a\": 1000000.0,\n  \"b\": [\n    2\n  ]\n}\n");
  }

  TEST_CASE(
      "models of this library are exported as what they are, or say what has no counterpart") {
    const auto as = [](const std::string& preset, const std::string& wanted = "") {
      return std::string(
          family_for(model_preset(preset).as<DecoderConfig>().completed(), wanted).model_type);
    };
    CHECK(as("GPT2") == "gpt2");  // exact GELU is a name there
    CHECK(as("Llama2_70B") == "llama");
    CHECK(as("Llama3_1_8B") == "llama");
    CHECK(as("Mistral_7B") == "mistral");
    CHECK(as("Qwen2_5_7B") == "qwen2");
    CHECK(as("Qwen3_8B") == "qwen3");
    CHECK(as("Phi3_5_Mini") == "phi3");
    CHECK(as("Phi4_14B") == "llama");
    CHECK(as("Phi4_14B", "phi3") == "phi3");
    CHECK(as("Olmo2_7B") == "olmo2");
    CHECK(as("Mixtral_8x7B") == "mixtral");
    CHECK(as("Qwen3_30B_A3B") == "qwen3_moe");
    const auto refused = [&](const std::string& preset, const std::string& wanted,
                             const std::vector<std::string>& parts) {
      check_error([&] { as(preset, wanted); }, parts);
    };
    refused("Gemma2_2B", "", {"norm_plus_one"});
    refused("OPT125M", "", {"no family", "final_norm_eps"});
    refused("OLMo_7B", "", {"norm is \"layer_norm\"", "rms_norm"});
    refused("DeepSeekV3_671B", "", {"no family", "cannot say"});
    refused("Olmo3_7B", "", {"no family", "cannot say"});
    refused("Llama3_1_8B", "gpt2", {"gpt2", "cannot say"});
    refused("Llama3_1_8B", "bert", {"bert", "known are"});
    DecoderConfig nano = model_preset("GPT2").as<DecoderConfig>();
    nano.bias = false;
    CHECK(std::string(family_for(nano.completed(), "").model_type) == "gpt2");  // zero biases
    DecoderConfig scaled = read(config_of("llama_linear"));
    scaled.rope_scaling.scaling_type = "ntk";
    check_error([&] { family_for(scaled, "llama"); }, {"rope_scaling", "ntk"});
  }

  TEST_CASE("every preset is exported, or one sentence says which option has no counterpart") {
    size_t folders = 0, files = 0;
    for (const ModelPreset& preset : model_presets()) {
      CAPTURE(preset.name);
      const DecoderConfig config = preset.config.as<DecoderConfig>().completed();
      const auto said = [](const std::string& error, const char* what) {
        CHECK_MESSAGE(error.find('\n') == std::string::npos, error);
        CHECK_MESSAGE(contains(error, what), error);
      };
      std::string name;
      try {
        name = family_for(config, "").model_type;
      } catch (const Error& error) {
        said(error.what(), "cannot say that");
        continue;
      }
      ++folders;
      GgufWriter to;
      try {
        config_to_gguf(config, family_of(name), ffn_width(config), to);
        ++files;
      } catch (const Error& error) {
        said(error.what(), " has no place for ");
      }
    }
    CHECK(folders >= 36);
    CHECK(files >= 36);
  }

  TEST_CASE("what ends a text, and how the vendor samples") {
    const auto settings = [](const char* generation, const char* config) {
      return generation_from_json(Json::parse(generation), Json::parse(config));
    };
    const GenerationSettings both = settings(
        "{\"eos_token_id\": [4, 3], \"temperature\": 0.7, \"top_k\": 20, \"do_sample\": true}",
        "{\"eos_token_id\": 7}");
    CHECK(both.stop == std::vector<int32_t>{4, 3, 7});
    CHECK(both.temperature == 0.7);
    CHECK(both.top_k == 20);
    CHECK(both.do_sample == true);
    CHECK(settings("null", "{\"eos_token_id\": null}").stop.empty());
    check_error([&] { settings("{\"eos_token_id\": -1}", "{}"); }, {"eos_token_id", "-1"});
    check_error([&] { settings("{\"top_p\": \"x\"}", "{}"); }, {"top_p", "number", "x"});
    check_error([&] { settings("[]", "{}"); }, {"object"});
    const Json before = Json::parse("{\"x\": 1, \"top_k\": 20, \"eos_token_id\": [3, 4]}");
    GenerationSettings now = generation_from_json(before, Json());
    CHECK(generation_to_json(now, nullptr, before) == before);
    now.top_k = 5;
    now.stop = {9};
    CHECK(generation_to_json(now, nullptr, before) ==
          Json::parse("{\"x\": 1, \"top_k\": 5, \"eos_token_id\": 9}"));
    Json config = Json::parse("{\"eos_token_id\": 4}");
    set_token_ids(both, nullptr, config);
    CHECK(config == Json::parse("{\"eos_token_id\": 4}"));
    config = Json::object();
    const ByteTokenizer bytes;
    set_token_ids({}, &bytes, config);
    CHECK(config == Json::parse("{\"eos_token_id\": 256}"));
  }
}
