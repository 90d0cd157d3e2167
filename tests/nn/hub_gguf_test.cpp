// Models in GGUF files: those of llama.cpp's converter, and the way back.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include <olm/engine/file.h>
#include <olm/nn/hub/gguf_internal.h>
#include <tests/support/gguf_models.h>

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

/// The error that opening llama3's file with a key set gives.
template <class T>
std::string refusal(const std::string& key, const T& value, const std::string& of = "llama3") {
  const TempFolder folder;
  Copy copy(of);
  copy.to.set(key, value);
  const std::string path = copy.write(folder);
  return message_of<FileError>([&] { open_gguf(path); });
}

}  // namespace

TEST_CASE("files of llama.cpp's converter have the logits of transformers") {
  for (const Made& m : kMade) {
    CAPTURE(m.name);
    const StoredModel stored = open_gguf(made(m.name));
    CHECK(stored.vendor_family == m.family);
    CHECK(stored.config->family == m.ours);
    CHECK(stored.not_understood.empty());
    // Rotated rows stay in the file's order, so that its tensors are used where they lie.
    const bool neighbours = stored.names.pairing == RopePairing::interleaved;
    if (stored.config->positions == "rope")
      CHECK(stored.config->rope_pairing == (neighbours ? "interleaved" : "halves"));
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
    // The run is still of the family that the file named.
    convert_to_hugging_face(folder / (name + ".run"), folder / (name + ".2.hf"));
    CHECK(read_file(folder / (name + ".2.hf/config.json")) ==
          read_file(folder / (name + ".hf/config.json")));
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
  refused(refusal("llama.expert_count", uint32_t(99999), "mixtral"), "too few", "99999 experts");
  refused(refusal("qwen2.attention.key_length", 1e30f, "qwen2"), "key_length is 1e+30", "integer");
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

TEST_SUITE_END();
