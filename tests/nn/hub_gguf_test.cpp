// Models in GGUF files: those of llama.cpp's converter, and the way back.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include <olm/autograd/tape.h>
#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/hub/gguf_internal.h>
#include <olm/nn/models.h>
#include <tests/support/parity.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::hub;
using namespace olm::test;

TEST_SUITE_BEGIN("nn/hub/gguf");

namespace {

/// A file of llama.cpp's converter, and what it is read as.
struct Made {
  const char* name;
  const char* family;
  const char* ours;
};
constexpr Made kMade[] = {{"gpt2", "gpt2", "gpt2"},
                          {"llama3", "llama", "llama"},
                          {"llama_linear", "llama", "llama"},
                          {"llama_yarn", "llama", "llama"},
                          {"qwen2", "qwen2", "qwen2"},
                          {"qwen3", "qwen3", "qwen3"},
                          {"phi3", "phi3", "phi3"},
                          {"gemma", "gemma", "gemma"},
                          {"gemma2", "gemma2", "gemma2"},
                          {"gemma3", "gemma3_text", "gemma3"},
                          {"olmo2", "olmo2", "olmo2"},
                          {"mixtral", "mixtral", "mixtral"},
                          {"qwen3_moe", "qwen3_moe", "qwen3_moe"}};

std::string made(const std::string& name) { return fixture("hub_gguf/" + name + ".gguf"); }

std::vector<float> logits(Module& model, const Tensor& ids) {
  NoGrad guard;
  Context ctx;
  return to_host<float>(model.forward(ids, ctx));
}

double largest(const std::vector<float>& values) {
  double result = 0;
  for (const float x : values) result = std::max(result, std::abs(double(x)));
  return result;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double result = 0;
  for (size_t i = 0; i < a.size(); ++i)
    result = std::max(result, std::abs(double(a[i]) - double(b[i])));
  return result;
}

/// Largest difference of logits from transformers', over its largest logit.
double error_of(const std::string& path, const std::string& name) {
  const SafetensorsFile oracle =
      SafetensorsFile::open(fixture("hub_gguf/" + name + ".safetensors"));
  const Pretrained model = load_pretrained(path, {.dtype = f32});
  const std::vector<float> wanted = to_host<float>(oracle.tensor("logits"));
  return largest_difference(logits(*model.model, oracle.tensor("ids")), wanted) / largest(wanted);
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The names of tensors of which the files hold other types, shapes or bytes.
std::string other_tensors(const std::string& a_path, const std::string& b_path) {
  const GgufFile a = GgufFile::open(a_path), b = GgufFile::open(b_path);
  std::string others;
  for (const GgufEntry& e : a.entries())
    if (!b.contains(e.name) || b.entry(e.name).type != e.type || b.entry(e.name).shape != e.shape ||
        text_of(a.bytes(e.name)) != text_of(b.bytes(e.name)))
      others += e.name + " ";
  for (const GgufEntry& e : b.entries())
    if (!a.contains(e.name)) others += e.name + " ";
  return others;
}

/// Keys of a that b lacks, or has with another value.
std::string other_values(const std::string& a_path, const std::string& b_path) {
  const GgufFile a = GgufFile::open(a_path), b = GgufFile::open(b_path);
  std::string others;
  for (const std::string& key : a.keys()) {
    const GgufValue* value = b.find(key);
    if (!value || value->describe() != a.at(key).describe() || value->kind() != a.at(key).kind())
      others += key + " ";
  }
  return others;
}

/// A file with the metadata and tensors of another, and changes.
struct Copy {
  const GgufFile from;
  GgufWriter to;
  explicit Copy(const std::string& name) : from(GgufFile::open(made(name))) {
    for (const std::string& key : from.keys()) to.set(key, from.at(key));
  }
  std::string write(const TempFolder& folder, const std::string& without = "") {
    for (const GgufEntry& e : from.entries())
      if (e.name != without)
        to.add(e.name, e.type, e.shape, [this, name = e.name] { return from.tensor(name); });
    to.write(folder / "copy.gguf");
    return folder / "copy.gguf";
  }
};

/// The error that opening llama3's file with a key set gives.
template <class T>
std::string refusal(const std::string& key, const T& value, const std::string& of = "llama3") {
  const TempFolder folder;
  Copy copy(of);
  copy.to.set(key, value);
  const std::string path = copy.write(folder);
  return message_of<FileError>([&] { open_gguf(path); });
}

Pretrained drawn(const DecoderConfig& config) {
  Pretrained result;
  result.model = DecoderModel(config);
  result.config = config.completed();
  Generator rng(5);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : result.model->named_parameters())
    tensors.emplace_back(name, randn(tensor.shape(), rng));
  result.model->load_state_dict(tensors);
  return result;
}

}  // namespace

TEST_CASE("files of llama.cpp's converter have the logits of transformers") {
  for (const Made& m : kMade) {
    CAPTURE(m.name);
    const StoredModel stored = open_gguf(made(m.name));
    CHECK(stored.vendor_family == m.family);
    CHECK(stored.config->family == m.ours);
    CHECK(stored.not_understood.empty());
    CHECK(error_of(made(m.name), m.name) < 1e-5);
  }
}

TEST_CASE("files of llama.cpp's converter are written again with the same tensors and values") {
  const TempFolder folder;
  for (const Made& m : kMade) {
    CAPTURE(m.name);
    const std::string path = folder / (std::string(m.name) + ".gguf");
    convert_to_gguf(made(m.name), path);
    CHECK(other_tensors(made(m.name), path) == "");
    CHECK(other_values(made(m.name), path) == "");
  }
}

TEST_CASE("models go through a folder of transformers and a run without change") {
  const TempFolder folder;
  for (const Made& m : kMade) {
    CAPTURE(m.name);
    const std::string name = m.name;
    convert_to_hugging_face(made(name), folder / (name + ".hf"));
    convert_to_gguf(folder / (name + ".hf"), folder / (name + ".gguf"));
    CHECK(other_tensors(made(name), folder / (name + ".gguf")) == "");
    CHECK(error_of(folder / (name + ".hf"), name) < 1e-5);
    convert_to_run(made(name), folder / (name + ".run"));
    CHECK(error_of(folder / (name + ".run"), name) < 1e-5);
    convert_to_gguf(folder / (name + ".run"), folder / (name + ".2.gguf"));
    CHECK(other_tensors(made(name), folder / (name + ".2.gguf")) == "");
  }
}

TEST_CASE("what metadata say of RoPE is the scaling that it came from") {
  const auto scaling = [](const char* name) { return open_gguf(made(name)).config->rope_scaling; };
  const RopeScalingOptions llama3 = scaling("llama3");
  CHECK(llama3.scaling_type == "llama3");
  CHECK(llama3.scaling_factor == 4);
  CHECK(llama3.low_freq_factor == 1);
  CHECK(llama3.high_freq_factor == 4);
  CHECK(llama3.original_max_seq_len == 16);
  const RopeScalingOptions linear = scaling("llama_linear");
  CHECK(linear.scaling_type == "linear");
  CHECK(linear.scaling_factor == 2.5);
  const RopeScalingOptions yarn = scaling("llama_yarn");
  CHECK(yarn.scaling_type == "yarn");
  CHECK(yarn.scaling_factor == 4);
  CHECK(yarn.original_max_seq_len == 16);
  CHECK(yarn.attention_factor == 1.25);
  const RopeScalingOptions longrope = scaling("phi3");
  CHECK(longrope.scaling_type == "longrope");
  CHECK(longrope.short_factor == std::vector<double>{1, 1.1, 1.2, 1.3, 1.4, 1.5});
  CHECK(longrope.long_factor[1] == 2.2);
  CHECK(!longrope.attention_factor);  // it is the one that follows from the lengths
}

namespace {

/// The scaling that is read from what is written of a Llama with heads of 64 numbers.
RopeScalingOptions read_again(const RopeScalingOptions& scaling, double theta = 500000) {
  const DecoderConfig c{.family = "llama",
                        .vocab_size = 8,
                        .embed_dim = 64,
                        .intermediate_size = 8,
                        .num_layers = 1,
                        .num_heads = 1,
                        .max_seq_len = 131072,
                        .rope_theta = theta,
                        .rope_scaling = scaling};
  const TempFolder folder;
  GgufWriter to;
  for (const RopeFactors& f : rope_scaling_to_gguf(c.completed(), "llama", to))
    to.add(f.name, GgufType::f32, {int64_t(f.values.size())},
           [f] { return from_host(f.values, {int64_t(f.values.size())}); });
  to.write(folder / "x.gguf");
  DecoderConfig plain = c.completed();
  plain.rope_scaling = {};
  return rope_scaling_from_gguf(GgufFile::open(folder / "x.gguf"), "llama", plain);
}

RopeScalingOptions llama3(double factor, int64_t original, double high = 4) {
  return {.scaling_type = "llama3",
          .scaling_factor = factor,
          .original_max_seq_len = original,
          .low_freq_factor = 1,
          .high_freq_factor = high};
}

}  // namespace

TEST_CASE("Llama 3's scaling is found from its divisors, and others are kept as they are") {
  for (const RopeScalingOptions& scaling : {llama3(8, 8192), llama3(32, 8192), llama3(4, 2048, 8)})
    CHECK(to_json(read_again(scaling)) == to_json(scaling));
  RopeScalingOptions odd = llama3(8, 8192);
  odd.low_freq_factor = 1.3;
  const RopeScalingOptions kept = read_again(odd);
  CHECK(kept.scaling_type == "longrope");
  CHECK(kept.short_factor == kept.long_factor);
  CHECK(kept.attention_factor == 1);
  CHECK(kept.short_factor.size() == 32);
  CHECK(kept.short_factor.back() == 8);
  CHECK(to_json(read_again(kept)) == to_json(kept));
}

TEST_CASE("numbers of f32 become the decimals that they were") {
  for (const double x : {1e-5, 1e-6, 0.1, 500000.0, 1.1902380714238083})
    CHECK(decimal_of(double(float(x))) == doctest::Approx(x).epsilon(1e-7));
  CHECK(decimal_of(double(1e-5f)) == 1e-5);
  CHECK(decimal_of(double(2.2f)) == 2.2);
  CHECK(open_gguf(made("llama3")).config->rms_norm_eps == 1e-5);
}

TEST_CASE("metadata that mean another computation are refused by name") {
  const auto refused = [](const std::string& error, const char* a, const char* b) {
    CHECK_MESSAGE(contains(error, a), error);
    CHECK_MESSAGE(contains(error, b), error);
    CHECK_MESSAGE(contains(error, "copy.gguf"), error);
  };
  refused(refusal("general.architecture", "mamba"), "\"mamba\"", "known are gpt2, llama");
  refused(refusal("general.architecture", "deepseek2"), "\"deepseek2\"", "known are");
  refused(refusal("llama.attention.clamp_kqv", 8.0f), "llama.attention.clamp_kqv", "8");
  refused(refusal("llama.attention.causal", false), "llama.attention.causal", "false");
  refused(refusal("llama.rope.scaling.type", "su", "llama_linear"), "llama.rope.scaling.type",
          "su");
  refused(refusal("llama.attention.value_length", uint32_t(16)), "keys of 8", "values of 16");
  refused(refusal("llama.rope.dimension_count", uint32_t(4)), "llama.rope.dimension_count", "4");
  refused(refusal("llama.block_count", uint32_t(3)), "missing are", "blk.2.attn_q.weight");
  refused(refusal("llama.block_count", uint32_t(1)), "surplus are", "blk.1.attn_q.weight");
  refused(refusal("llama.attention.head_count", uint32_t(3)), "num_heads 3", "num_kv_heads 2");
  refused(refusal("llama.attention.head_count", "four"), "llama.attention.head_count", "string");
  refused(refusal("llama.attention.head_count", std::vector<int32_t>{4, 2}), "head_count",
          "[4, 2]");
  refused(refusal("llama.embedding_length", uint32_t(0)), "width are 2, 4 and 0", "1");
  refused(refusal("qwen3moe.expert_weights_scale", 2.5f, "qwen3_moe"), "expert_weights_scale",
          "2.5");
  refused(refusal("gemma2.attention.sliding_window_pattern", std::vector<bool>{true}, "gemma2"),
          "sliding_window_pattern", "1 items");
}

TEST_CASE("tensors that are missing or of other types are refused by name") {
  const TempFolder folder;
  const std::string lacks = Copy("llama3").write(folder, "blk.1.ffn_up.weight");
  const std::string error = message_of<FileError>([&] { open_gguf(lacks); });
  CHECK_MESSAGE(contains(error, "missing are blk.1.ffn_up.weight"), error);
  const std::string none = Copy("phi3").write(folder, "rope_factors_long.weight");
  const std::string factors = message_of<FileError>([&] { open_gguf(none); });
  CHECK_MESSAGE(contains(factors, "rope_factors_long.weight"), factors);
}

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
      "qwen3", [](DecoderConfig& c) { c.rope_scaling = llama3(8, 16); }, "llama3");
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
