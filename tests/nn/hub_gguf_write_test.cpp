// What is written in GGUF files, and kept of those that were read.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include <olm/nn/hub/gguf_internal.h>
#include <tests/support/gguf_models.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::hub;
using namespace olm::test;

TEST_SUITE_BEGIN("nn/hub/gguf_write");

TEST_CASE("keys that change nothing are kept, named and written again") {
  const TempFolder folder;
  Copy copy("llama3");
  copy.to.set("general.license", "mit");
  copy.to.set("llama.attention.clamp_kqv", 0.0f);
  copy.to.set("llama.of_nobody", std::vector<int32_t>{1, -2});
  copy.to.set("x.note", "said");
  copy.to.set("llama.expert_count", uint32_t(0));
  const std::string path = copy.write(folder), again = folder / "again.gguf";
  const StoredModel model = open_gguf(path);
  const std::vector<std::string> named{"gguf.json: llama.attention.clamp_kqv",
                                       "gguf.json: llama.of_nobody", "gguf.json: x.note"};
  CHECK(model.not_understood == named);
  convert_to_gguf(path, again, {.name = "Anew"});
  const GgufFile file = GgufFile::open(again);
  CHECK(file.at("general.license").as_string() == "mit");
  CHECK(file.at("general.name").as_string() == "Anew");
  CHECK(file.at("llama.of_nobody").as_ints() == std::vector<int64_t>{1, -2});
  CHECK(file.find("x.note") != nullptr);
}

TEST_CASE("types are those asked for, but of vectors, norms, routers and positions") {
  const TempFolder folder;
  struct Row {
    const char* type;
    GgufType matrices, odd;
    int64_t number;
  };
  for (const Row& row :
       {Row{"f32", GgufType::f32, GgufType::f32, 0}, Row{"f16", GgufType::f16, GgufType::f16, 1},
        Row{"bf16", GgufType::bf16, GgufType::bf16, 32},
        Row{"q8_0", GgufType::q8_0, GgufType::f16, 7}})
    for (const std::string name : {"gpt2", "llama3", "mixtral"}) {
      const std::string path = folder / (name + "." + row.type);
      convert_to_gguf(made(name), path, {.type = row.type});
      const GgufFile file = GgufFile::open(path);
      CHECK(file.at("general.file_type").as_int() == row.number);
      for (const GgufEntry& e : file.entries()) {
        CAPTURE(e.name);
        const bool vector = e.shape.rank() < 2 || e.name == "position_embd.weight" ||
                            contains(e.name, "ffn_gate_inp");
        const bool odd = !vector && e.shape[e.shape.rank() - 1] % 32 != 0;
        CHECK(e.type == (vector ? GgufType::f32 : odd ? row.odd : row.matrices));
      }
    }
  const std::string error =
      message_of<Error>([&] { convert_to_gguf(made("gpt2"), folder / "x", {.type = "q4_0"}); });
  CHECK_MESSAGE(contains(error, "\"q4_0\""), error);
  CHECK(!std::filesystem::exists(folder / "x"));
}

TEST_CASE("a GPT-2 of this library gets the biases that llama.cpp wants, and its GELU is told") {
  const TempFolder folder;
  const Pretrained model = drawn({.family = "gpt2",
                                  .vocab_size = 40,
                                  .embed_dim = 16,
                                  .num_layers = 2,
                                  .num_heads = 2,
                                  .max_seq_len = 12,
                                  .bias = false});
  const std::vector<std::string> told = save_gguf(model, folder / "x.gguf");
  REQUIRE(told.size() == 2);
  CHECK(contains(told[0], "no tokenizer"));
  CHECK(contains(told[1], "GELU"));
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  for (const char* name : {"blk.0.attn_qkv.bias", "blk.0.attn_output.bias", "blk.1.ffn_up.bias",
                           "blk.1.ffn_down.bias"}) {
    CAPTURE(name);
    REQUIRE(file.contains(name));
    CHECK(largest(to_host<float>(file.tensor(name))) == 0);
  }
  CHECK(file.at("gpt2.feed_forward_length").as_int() == 64);
  const Pretrained again = load_pretrained(folder / "x.gguf");
  CHECK(again.config->gelu_tanh == false);
  const Tensor ids = from_host(std::vector<int32_t>{3, 1, 39, 0, 7}, {1, 5});
  const std::vector<float> wanted = logits(*model.model, ids);
  CHECK(largest_difference(logits(*again.model, ids), wanted) <= 1e-6 * largest(wanted));
}

TEST_CASE("what llama.cpp's architectures have no place for is refused by name") {
  const TempFolder folder;
  const auto refused = [&](const char* of, void (*change)(DecoderConfig&), const char* what) {
    StoredModel model = open_gguf(made(of));
    change(*model.config);
    const std::string error = message_of<Error>([&] { write_gguf(model, folder / "x.gguf", {}); });
    CHECK_MESSAGE(contains(error, what), error);
    CHECK(!std::filesystem::exists(folder / "x.gguf"));
  };
  refused(
      "gemma2", [](DecoderConfig& c) { c.query_pre_attn_scalar = 7; }, "query_pre_attn_scalar");
  refused(
      "qwen3_moe", [](DecoderConfig& c) { c.norm_topk_prob = false; }, "norm_topk_prob");
  refused(
      "llama3", [](DecoderConfig& c) { c.rope_scaling.scaling_type = "ntk"; }, "ntk");
  refused(
      "qwen3", [](DecoderConfig& c) { c.rope_scaling = {.scaling_type = "llama3"}; }, "llama3");
  const std::string taken = folder.file("taken.gguf", "x");
  const std::string error = message_of<FileError>([&] { convert_to_gguf(made("gpt2"), taken); });
  CHECK_MESSAGE(contains(error, "exists already"), error);
}

TEST_CASE("what llama.cpp computes in another way is told") {
  const TempFolder folder;
  StoredModel model = open_gguf(made("qwen2"));
  model.config->sliding_window = 8;
  const std::vector<std::string> told = write_gguf(model, folder / "x.gguf", {});
  REQUIRE(told.size() == 2);
  CHECK(contains(told[1], "no sliding window"));
  CHECK(open_gguf(folder / "x.gguf").config->sliding_window == 8);
}

TEST_CASE("windows of single layers are read from numbers and lists, and written again") {
  const TempFolder folder;
  const auto with = [&](auto pattern) {
    Copy copy("gemma2");
    copy.to.set("gemma2.attention.sliding_window_pattern", pattern);
    return copy.write(folder);
  };
  const auto again = [&](const std::string& path) {
    std::filesystem::remove(folder / "again.gguf");
    convert_to_gguf(path, folder / "again.gguf");
    return *open_gguf(folder / "again.gguf").config;
  };
  const std::vector<int64_t> second{1}, both{0, 1};
  const std::string listed = with(std::vector<bool>{false, true});
  CHECK(open_gguf(listed).config->window_layers == second);
  CHECK(again(listed).window_layers == second);
  CHECK(error_of(listed, "gemma2") > 1e-3);
  const std::string all = with(uint32_t(3));
  CHECK(open_gguf(all).config->window_layers == both);
  CHECK(again(all).window_layers == both);
  const std::string usual = with(uint32_t(2));
  CHECK(open_gguf(usual).config->window_layers.empty());
  CHECK(error_of(usual, "gemma2") < 1e-5);
  const DecoderConfig none = *open_gguf(with(uint32_t(1))).config;
  CHECK(none.sliding_window == none.max_seq_len);
}

TEST_CASE("OLMo 2 gets a head of its own, as llama.cpp wants it") {
  const TempFolder folder;
  const Pretrained model = drawn({.family = "olmo2",
                                  .vocab_size = 40,
                                  .embed_dim = 16,
                                  .num_layers = 1,
                                  .num_heads = 2,
                                  .max_seq_len = 12});
  save_gguf(model, folder / "x.gguf");
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  REQUIRE(file.contains("output.weight"));
  CHECK(text_of(file.bytes("output.weight")) == text_of(file.bytes("token_embd.weight")));
  const Pretrained again = load_pretrained(folder / "x.gguf");
  const Tensor ids = from_host(std::vector<int32_t>{3, 1, 39, 0, 7}, {1, 5});
  const std::vector<float> wanted = logits(*model.model, ids);
  CHECK(largest_difference(logits(*again.model, ids), wanted) <= 1e-6 * largest(wanted));
}

TEST_CASE("tokenizer, chat template and ids that end a text travel along") {
  const TempFolder folder;
  Pretrained model = drawn({.family = "llama",
                            .vocab_size = 280,
                            .embed_dim = 16,
                            .num_layers = 1,
                            .num_heads = 2,
                            .max_seq_len = 12});
  const std::vector<std::string_view> texts = {"one and one and one are more than one and one"};
  model.tokenizer = train_tokenizer("bpe:260", texts);
  model.generation.stop = {256, 5, 6};
  model.vendor["chat_template.jinja"] = "{{ messages }}";
  save_gguf(model, folder / "x.gguf");
  const GgufFile file = GgufFile::open(folder / "x.gguf");
  CHECK(file.at("tokenizer.ggml.eos_token_id").as_int() == 256);
  CHECK(file.at("tokenizer.ggml.tokens").size() == 280);
  CHECK(!file.find("llama.expert_used_count"));  // llama.cpp stops where there are fewer experts
  const StoredModel again = open_gguf(folder / "x.gguf");
  REQUIRE(again.tokenizer);
  const std::string text = "and one more\n2024";
  CHECK(again.tokenizer->encode(text) == model.tokenizer->encode(text));
  std::vector<int32_t> stop = again.generation.stop;
  std::sort(stop.begin(), stop.end());
  CHECK(stop == std::vector<int32_t>{5, 6, 256});
  CHECK(again.vendor.at("chat_template.jinja") == "{{ messages }}");
}

TEST_SUITE_END();
