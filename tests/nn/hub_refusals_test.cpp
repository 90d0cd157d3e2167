// Folders of transformers that are refused, each with one sentence.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include <olm/engine/file.h>
#include <olm/engine/json.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;
namespace fs = std::filesystem;

namespace {

std::string vendor_case(const std::string& name) { return fixture("hub/" + name); }

/// A copy of a vendor's folder to be damaged.
std::string copied(const TempFolder& folder, const std::string& name) {
  const std::string to = folder / name;
  fs::copy(vendor_case(name), to);
  return to;
}

std::string load_refusal(const std::string& path) {
  const std::string message = message_of<FileError>([&] { load_pretrained(path); });
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
  return message;
}

/// A folder of shards with an index that `change` has changed.
std::string sharded(const TempFolder& folder, const std::function<void(Json&)>& change) {
  const std::string to = folder / "sharded";
  remove_all(to);
  convert_to_hugging_face(vendor_case("llama"), to, {.shard_bytes = 20000});
  const std::string path = to + "/model.safetensors.index.json";
  Json index = read_json(path);
  change(index);
  write_json(path, index);
  return to;
}

/// A vocabulary of 96 characters and the token <image> behind them.
Json with_image(bool special) {
  Json vocabulary = Json::object();
  for (int64_t id = 0; id < 95; ++id) vocabulary.append(std::string(1, char(' ' + id)), id);
  vocabulary.append("\xc3\xa9", int64_t(95));
  Json json = Json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 96, "content": "<image>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
              "continuing_subword_prefix": null, "end_of_word_suffix": null,
              "byte_fallback": false, "ignore_merges": false, "merges": []}})");
  if (!special) {
    Json token = json.at("added_tokens").at(size_t(0));
    token["special"] = false;
    json["added_tokens"] = Json::array();
    json["added_tokens"].push_back(token);
  }
  json["model"]["vocab"] = vocabulary;
  return json;
}

}  // namespace

TEST_SUITE("nn/hub/refusals") {
  TEST_CASE("names of shards that lead elsewhere are refused") {
    const TempFolder folder;
    for (const char* shard : {"../llama.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..",
                              "", ".hidden.safetensors", "model.bin"}) {
      const std::string to =
          sharded(folder, [&](Json& index) { index["weight_map"]["lm_head.weight"] = shard; });
      const std::string message = load_refusal(to);
      CHECK_MESSAGE(contains(message, "as the shard of lm_head.weight: the name of a .safetensors"),
                    message);
    }
  }

  TEST_CASE("index and shards agree, and every shard is whole") {
    const TempFolder folder;
    const auto map = [](Json& index) -> Json& { return index["weight_map"]; };
    CHECK(contains(
        load_refusal(sharded(
            folder, [&](Json& index) { map(index)["lm_head.weight"] = "model-9.safetensors"; })),
        "model-9.safetensors: cannot be opened"));
    CHECK(contains(load_refusal(sharded(folder,
                                        [&](Json& index) {
                                          map(index)["more"] =
                                              "model-00001-of-"
                                              "00005.safetensors";
                                        })),
                   "does not hold what the index says; missing are more"));
    CHECK(contains(load_refusal(sharded(folder,
                                        [&](Json& index) {
                                          Json fewer = Json::object();
                                          for (const auto& [name, shard] : map(index).members())
                                            if (name != "model.norm.weight")
                                              fewer.append(name, shard);
                                          index["weight_map"] = fewer;
                                        })),
                   "surplus are model.norm.weight"));
    const std::string cut = sharded(folder, [](Json&) {});
    for (const std::string& path : list_files(cut))
      if (path.ends_with("-00002-of-00005.safetensors"))
        fs::resize_file(path, fs::file_size(path) - 1);
    CHECK(contains(load_refusal(cut), "00002-of-00005.safetensors: truncated"));
  }

  TEST_CASE("weights that are no weights here are refused, naming them") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    remove_all(to + "/model.safetensors");
    CHECK(contains(load_refusal(to), "holds neither model.safetensors nor"));
    write_file(to + "/pytorch_model.bin", "x");
    CHECK(contains(load_refusal(to), "pytorch_model.bin: pickled weights are not read"));
    const uint8_t bytes[] = {1, 2};
    write_safetensors(to + "/model.safetensors",
                      {{"model.norm.weight", "F8_E4M3", {2}, std::as_bytes(std::span(bytes))},
                       {"packed", "U8", {2}, std::as_bytes(std::span(bytes))}});
    CHECK(contains(load_refusal(to),
                   "types that are no weights here: model.norm.weight (F8_E4M3 "
                   "[2]), packed (U8 [2])"));
  }

  TEST_CASE("a tokenizer with more ids than the embedding has rows is refused") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    ByteTokenizer().save(to + "/tokenizer.json");
    CHECK(contains(load_refusal(to), "the tokenizer has 257 ids, but the embedding has 96 rows"));
  }

  TEST_CASE("the last special tokens may lack a row") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    write_json(to + "/tokenizer.json", with_image(true));
    const Pretrained loaded = load_pretrained(to);
    CHECK(loaded.tokenizer->vocab_size() == 97);
    CHECK(loaded.tokenizer->min_rows() == 96);
    CHECK(std::count(loaded.not_understood.begin(), loaded.not_understood.end(),
                     "tokenizer.json: <image>") == 1);
    CHECK(loaded.tokenizer->encode("<image>").size() == 7);
    const auto ids = loaded.tokenizer->encode("<image>", {.parse_special_tokens = true});
    REQUIRE(ids == std::vector<int32_t>{96});
    Context ctx;
    CHECK(contains(message_of<Error>([&] {
                     loaded.model->forward(from_host(ids, {1, 1}), ctx);
                   }),
                   "96"));
    convert_to_hugging_face(to, folder / "hf");
    CHECK(read_json(folder / "hf/tokenizer.json") == with_image(true));
    const auto notes = convert_to_gguf(to, folder / "x.gguf");
    CHECK(std::count(notes.begin(), notes.end(),
                     "the file leaves out the token <image>, which has no row in the embedding") ==
          1);
    CHECK(load_pretrained(folder / "x.gguf").tokenizer->vocab_size() == 96);

    // A token that a text or its end may need must have one.
    write_json(to + "/tokenizer.json", with_image(false));
    CHECK(contains(load_refusal(to), "the tokenizer has 97 ids, but the embedding has 96 rows"));
    write_json(to + "/tokenizer.json", with_image(true));
    write_file(to + "/tokenizer_config.json", R"({"eos_token": "<image>"})");
    CHECK(contains(load_refusal(to), "the tokenizer has 97 ids, but the embedding has 96 rows"));
  }

  TEST_CASE("tensors that are in two shards, or in one twice, are refused") {
    const TempFolder folder;
    const std::string to = sharded(folder, [](Json&) {});
    const Json index = read_json(to + "/model.safetensors.index.json");
    const std::string& first = index.at("weight_map").at("model.norm.weight").as_string();
    std::string other;
    for (const auto& [name, shard] : index.at("weight_map").members())
      if (shard.as_string() != first) other = to + "/" + shard.as_string();
    const SafetensorsFile file = SafetensorsFile::open(other);
    std::vector<NamedTensor> tensors{{"model.norm.weight", zeros({32})}};
    for (const std::string& name : file.names())
      tensors.emplace_back(name, raw::clone(file.tensor(name)));
    write_safetensors(other, tensors);
    CHECK(contains(load_refusal(to), "does not hold what the index says; surplus are model.norm"));
    const std::string twice = copied(folder, "llama");
    std::string bytes = read_file(twice + "/model.safetensors");
    const std::string name = "model.layers.0.mlp.up_proj.weight";
    const size_t at = bytes.find(name);
    REQUIRE(at != std::string::npos);
    bytes.replace(at, name.size(), "model.layers.1.mlp.up_proj.weight");
    write_file(twice + "/model.safetensors", bytes);
    CHECK(contains(load_refusal(twice), "model.layers.1.mlp.up_proj.weight\" comes twice"));
  }

  TEST_CASE("missing, surplus and wrongly shaped tensors are listed in one sentence") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    const SafetensorsFile file = SafetensorsFile::open(to + "/model.safetensors");
    std::vector<NamedTensor> tensors{{"model.extra.weight", zeros({2})},
                                     {"model.norm.weight", zeros({3})}};
    for (const std::string& name : file.names())
      if (name != "model.norm.weight" && name.find("layers.1.mlp") == std::string::npos)
        tensors.emplace_back(name, raw::clone(file.tensor(name)));
    write_safetensors(to + "/model.safetensors", tensors);
    const std::string message = load_refusal(to);
    for (const char* part :
         {"missing are model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight, "
          "model.layers.1.mlp.down_proj.weight;",
          "surplus are model.extra.weight;", "model.norm.weight [3] instead of [32]"})
      CHECK_MESSAGE(contains(message, part), message);
  }

  TEST_CASE("a config.json that is not computed here is refused, naming file and key") {
    const TempFolder folder;
    const std::string to = copied(folder, "llama");
    const Json before = read_json(to + "/config.json");
    struct Spoiled {
      const char *key, *value, *message;
    };
    for (const Spoiled& s : {
             Spoiled{"model_type", "\"mamba\"", "the model type \"mamba\" is not known"},
             {"architectures", "[\"LlamaModel\"]", "architectures names \"LlamaModel\""},
             {"quantization_config", "{\"bits\": 4}", "quantization_config says that"},
             {"hidden_act", "\"relu6\"", "hidden_act is \"relu6\""},
             {"rope_scaling", "{\"rope_type\": \"ntk\", \"factor\": 2}", "rope_type \"ntk\""},
             {"num_attention_heads", "3", "3 heads do not divide the hidden size 32"},
             {"num_key_value_heads", "3", "3 key and value heads do not divide 4 heads"},
             {"head_dim", "7", "7"},
             {"num_hidden_layers", "10000", "which has 10000 layers"},
             {"num_attention_heads", "1e300", "num_heads"},
             {"vocab_size", "1000000000", "[96,32] instead of [1000000000,32]"},
         }) {
      CAPTURE(s.key);
      Json config = before;
      config[s.key] = Json::parse(s.value);
      write_json(to + "/config.json", config);
      const std::string message = load_refusal(to);
      CHECK_MESSAGE(contains(message, s.message), message);
      CHECK_MESSAGE(message.starts_with(to), message);
      CHECK(message_of<FileError>([&] { convert_to_run(to, folder / "run"); }) == message);
      CHECK_FALSE(folder_exists(folder / "run"));
    }
  }

  TEST_CASE("a configuration of more modules than the files have tensors costs no memory") {
    const TempFolder folder;
    const std::string to = copied(folder, "mixtral");
    Json config = read_json(to + "/config.json");
    config["num_hidden_layers"] = 10;
    config["num_local_experts"] = 99999;
    write_json(to + "/config.json", config);
    CHECK(contains(load_refusal(to),
                   "too few for the configuration, which has 10 layers of 99999 experts"));
  }

  TEST_CASE("what is no model is refused saying what was wanted") {
    const TempFolder folder;
    CHECK(contains(load_refusal(folder / "none"), "is no file and no folder; a run"));
    CHECK(contains(load_refusal(folder.path()), "holds no model.json and no config.json; a run"));
    CHECK(contains(load_refusal(folder.file("x", "hello")), "does not begin as a GGUF file"));
    const std::string to = copied(folder, "llama");
    write_file(to + "/config.json", "{");
    CHECK(contains(load_refusal(to), "/config.json: not valid JSON at line 1"));
  }
}
