// Tensors of one form made from those of another.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include <olm/engine/random.h>
#include <olm/engine/raw.h>
#include <olm/nn/hub/parts_internal.h>
#include <olm/nn/hub/stored_internal.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::nn::hub;
using namespace olm::test;

namespace {

using Named = std::vector<NamedTensor>;

/// A small model of a row of decoders(), whose sizes differ from each other.
DecoderConfig small(const std::string& ours, bool tie = false) {
  DecoderConfig c{.family = ours,
                  .vocab_size = 11,
                  .embed_dim = 12,
                  .intermediate_size = 10,
                  .num_layers = 2,
                  .num_heads = 4,
                  .max_seq_len = 7,
                  .tie_weights = tie};
  const auto keys = decoders().get(ours).keys;
  const auto has = [&](const char* key) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  if (has("num_kv_heads")) c.num_kv_heads = 2;
  if (has("head_dim")) c.head_dim = 8;
  if (has("num_experts")) c.num_experts = 3;
  if (has("moe_intermediate_size")) c.moe_intermediate_size = 6;
  if (has("norm_plus_one")) c.norm_plus_one = true;
  if (!has("head_dim")) c.embed_dim = 16;
  return c.completed();
}

/// Every parameter of such a model, drawn anew.
Named drawn(const DecoderConfig& config, DType dtype = f32) {
  const Ref<BlockModule> model = DecoderModel(config);
  Generator rng(3);
  Named tensors;
  std::vector<const TensorImpl*> seen;
  model->for_each_parameter([&](const std::string& key, Parameter& p) {
    if (std::find(seen.begin(), seen.end(), &p.handle().impl()) != seen.end()) return;
    seen.push_back(&p.handle().impl());
    tensors.emplace_back(key, raw::cast(randn(p.shape(), rng), dtype));
  });
  return tensors;
}

StoredModel model_of(const DecoderConfig& config, const Names& names, const Named& tensors) {
  StoredModel m{.path = "x"};
  m.config = config;
  m.names = names;
  m.tensors = tensors_in_memory(tensors);
  return m;
}

StoredModel own(const DecoderConfig& config) {
  return model_of(config, names_here(config), drawn(config));
}

Named made(const StoredModel& from, const Names& to) {
  Named result;
  for (const PlannedTensor& planned : plan(from, to)) {
    result.emplace_back(planned.name, planned.make());
    CHECK_MESSAGE(result.back().second.shape() == planned.shape, planned.name);
    CHECK_MESSAGE(result.back().second.dtype() == planned.dtype, planned.name);
  }
  return result;
}

Tensor get(const Named& tensors, const std::string& name) {
  for (const auto& [key, tensor] : tensors)
    if (key == name) return tensor;
  FAIL("no tensor " << name);
  return {};
}

/// The value at a place of a matrix or vector.
float at(const Tensor& t, int64_t row, int64_t column = 0) {
  const Tensor c = raw::contiguous(t);
  return c.data<float>()[row * (t.rank() == 2 ? t.size(1) : 1) + column];
}

void check_equal(const Tensor& a, const Tensor& b, const std::string& name) {
  REQUIRE_MESSAGE(a.shape() == b.shape(), name);
  REQUIRE_MESSAGE(a.dtype() == b.dtype(), name);
  const Tensor x = raw::contiguous(a), y = raw::contiguous(b);
  CHECK_MESSAGE(std::memcmp(x.data(), y.data(), size_t(x.numel()) * size_of(x.dtype())) == 0, name);
}

const Family& family(const char* model_type) { return family_of(model_type); }

constexpr const char* kAttention = "blocks.1.stack.1.blocks.0.block.blocks.1.";
constexpr const char* kFfn = "blocks.1.stack.1.blocks.1.block.blocks.1.";

std::string refusal(const DecoderConfig& config, const Names& names, const Named& tensors) {
  return message_of<FileError>([&] { check_tensors(model_of(config, names, tensors)); });
}

}  // namespace

TEST_SUITE("nn/hub/tensors") {
  TEST_CASE("every parameter of every family has a name that says what it is") {
    for (const Family& f : families()) CHECK_NOTHROW_MESSAGE(parts_of(small(f.ours)), f.model_type);
    for (const char* other : {"llama3", "phi4", "opt", "olmo", "olmo3"})
      CHECK_NOTHROW_MESSAGE(parts_of(small(other)), other);
    CHECK(contains(message_of<Error>([] { parts_of(small("deepseek_v3")); }),
                   "which no other program's models have"));
  }

  TEST_CASE("what goes to another form and back has the same bytes") {
    for (const Family& f : families())
      for (const bool gguf : {false, true})
        for (const char* pairing : {"interleaved", "halves"})
          for (const bool tie : {false, true}) {
            DecoderConfig config = small(f.ours, tie);
            const bool rope = *config.positions == "rope";
            if (rope) config.rope_pairing = pairing;
            const Names& theirs = gguf ? f.gguf_names : f.hugging_face;
            if (config.norm_plus_one.value() && gguf) continue;  // 1 + w loses bits of w
            CAPTURE(f.model_type);
            CAPTURE(gguf);
            CAPTURE(pairing);
            CAPTURE(tie);
            const StoredModel from = own(config);
            const Named there = made(from, theirs);
            const Named back = made(model_of(config, theirs, there), names_here(config));
            CHECK(back.size() == from.tensors->entries().size());
            for (const auto& [name, tensor] : back)
              check_equal(tensor, from.tensors->tensor(name), name);
          }
  }

  TEST_CASE("rotated rows change their order: weights, biases and QK-norms, by heads") {
    DecoderConfig config = small("qwen2");
    config.rope_pairing = "interleaved";
    const StoredModel from = own(config);
    const Named there = made(from, family("qwen2").hugging_face);
    const int64_t d = 8;
    for (const char* part : {"q", "k"})
      for (const bool bias : {false, true}) {
        const std::string end = std::string(part) + (bias ? "_proj.bias" : "_proj.weight");
        const Tensor ours = from.tensors->tensor(kAttention + end);
        const Tensor theirs = get(there, "model.layers.1.self_attn." + end);
        for (int64_t h = 0; h < ours.size(0) / d; ++h)
          for (int64_t j = 0; j < d / 2; ++j) {
            CHECK(at(theirs, h * d + j) == at(ours, h * d + 2 * j));
            CHECK(at(theirs, h * d + j + d / 2) == at(ours, h * d + 2 * j + 1));
          }
      }
    check_equal(get(there, "model.layers.1.self_attn.v_proj.bias"),
                from.tensors->tensor(std::string(kAttention) + "v_proj.bias"), "v");
  }

  TEST_CASE("QK-norms follow the rows of queries and keys, of one head or of all") {
    for (const char* ours : {"qwen3", "olmo2"}) {
      DecoderConfig config = small(ours);
      config.rope_pairing = "interleaved";
      const StoredModel from = own(config);
      const Names& theirs = family(ours).hugging_face;
      const Named there = made(from, theirs);
      const bool post = *config.post_norm;
      const std::string attention =
          "blocks.1.stack.1.blocks.0.block.blocks." + std::string(post ? "0." : "1.");
      for (const char* norm : {"q_norm.weight", "k_norm.weight"}) {
        const Tensor x = from.tensors->tensor(attention + norm);
        const Tensor y = get(there, std::string("model.layers.1.self_attn.") + norm);
        const int64_t d = 8;
        CHECK(x.size(0) == (post ? (norm[0] == 'q' ? 4 : 2) * d : d));
        for (int64_t h = 0; h < x.size(0) / d; ++h)
          for (int64_t j = 0; j < d / 2; ++j) {
            CHECK(at(y, h * d + j) == at(x, h * d + 2 * j));
            CHECK(at(y, h * d + j + d / 2) == at(x, h * d + 2 * j + 1));
          }
      }
    }
  }

  TEST_CASE("where RoPE rotates a part of a head, only its rows change their order") {
    DecoderConfig config = small("phi3");
    config.embed_dim = 32;
    config.partial_rotary_factor = 0.5;
    config.rope_pairing = "interleaved";
    const StoredModel from = own(config);
    const Tensor ours = from.tensors->tensor(std::string(kAttention) + "q_proj.weight");
    const Tensor qkv =
        get(made(from, family("phi3").hugging_face), "model.layers.1.self_attn.qkv_proj.weight");
    const int64_t order[] = {0, 2, 1, 3, 4, 5, 6, 7};
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t i = 0; i < 8; ++i) CHECK(at(qkv, h * 8 + i, 3) == at(ours, h * 8 + order[i], 3));
  }

  TEST_CASE("fused and transposed tensors hold their parts in the vendor's order") {
    const DecoderConfig phi = small("phi3");
    const StoredModel from = own(phi);
    const Named there = made(from, family("phi3").hugging_face);
    const Tensor up = from.tensors->tensor(std::string(kFfn) + "up_proj.weight");
    const Tensor gate_up = get(there, "model.layers.1.mlp.gate_up_proj.weight");
    const int64_t f = 10;
    for (int64_t i = 0; i < f; ++i) {
      CHECK(at(gate_up, i, 2) == at(up, f + i, 2));  // ours: value, then gate
      CHECK(at(gate_up, f + i, 2) == at(up, i, 2));
    }
    const Tensor qkv = get(there, "model.layers.1.self_attn.qkv_proj.weight");
    const Tensor v = from.tensors->tensor(std::string(kAttention) + "v_proj.weight");
    CHECK(qkv.shape() == Shape{32 + 16 + 16, 12});
    CHECK(at(qkv, 32 + 16 + 3, 5) == at(v, 3, 5));

    const StoredModel gpt = own(small("gpt2"));
    const Tensor c_attn =
        get(made(gpt, family("gpt2").hugging_face), "transformer.h.1.attn.c_attn.weight");
    CHECK(c_attn.shape() == Shape{16, 48});
    const Tensor k = gpt.tensors->tensor(std::string(kAttention) + "k_proj.weight");
    CHECK(at(c_attn, 5, 16 + 3) == at(k, 3, 5));
    const Tensor fused = get(made(gpt, family("gpt2").gguf_names), "blk.1.attn_qkv.weight");
    CHECK(at(fused, 16 + 3, 5) == at(k, 3, 5));
  }

  TEST_CASE("experts stand alone or one behind another") {
    const StoredModel from = own(small("mixtral"));
    const Named there = made(from, family("mixtral").gguf_names);
    const Tensor ups = get(there, "blk.1.ffn_up_exps.weight");
    const Tensor gates = get(there, "blk.1.ffn_gate_exps.weight");
    CHECK(ups.shape() == Shape{3, 6, 12});
    const Tensor ours = from.tensors->tensor(std::string(kFfn) + "experts.2.up_proj.weight");
    CHECK(at(raw::select(ups, 0, 2), 4, 7) == at(ours, 4, 7));
    CHECK(at(raw::select(gates, 0, 2), 4, 7) == at(ours, 6 + 4, 7));
  }

  TEST_CASE("norms that scale by 1 + w are stored as w or as 1 + w") {
    const DecoderConfig config = small("gemma3");
    const StoredModel from = own(config);
    const std::string ours = "blocks.1.stack.1.blocks.0.block.blocks.0.weight";
    const Tensor w = from.tensors->tensor(ours);
    check_equal(get(made(from, family("gemma3_text").hugging_face),
                    "model.layers.1.input_layernorm.weight"),
                w, "w");
    const Named gguf = made(from, family("gemma3_text").gguf_names);
    const Tensor scale = get(gguf, "blk.1.attn_norm.weight");
    for (int64_t i = 0; i < w.size(0); ++i) CHECK(at(scale, i) == at(w, i) + 1);
    const Tensor q_norm = from.tensors->tensor(std::string(kAttention) + "q_norm.weight");
    CHECK(at(get(gguf, "blk.1.attn_q_norm.weight"), 0) == at(q_norm, 0) + 1);
    const Named halves = made(model_of(config, names_here(config), drawn(config, bf16)),
                              family("gemma3_text").gguf_names);
    CHECK(get(halves, "blk.1.attn_norm.weight").dtype() == f32);  // 1 + w has more digits
    CHECK(get(halves, "blk.1.attn_q.weight").dtype() == bf16);
  }

  TEST_CASE("a form that has biases everywhere gets zeros where the model has none") {
    DecoderConfig config = small("gpt2");
    config.bias = false;
    const Named there = made(own(config), family("gpt2").hugging_face);
    const Tensor bias = get(there, "transformer.h.1.attn.c_attn.bias");
    CHECK(to_host<float>(bias) == std::vector<float>(48, 0.f));
    CHECK(get(there, "transformer.h.0.mlp.c_fc.bias").numel() == 10);
  }

  TEST_CASE("what needs no change is not copied") {
    DecoderConfig config = small("phi3");
    config.rope_pairing = "halves";
    const Names& theirs = family("phi3").hugging_face;
    const Named there = made(own(config), theirs);
    const Named back = made(model_of(config, theirs, there), names_here(config));
    const auto begin = [&](const Named& all, const std::string& name) {
      return static_cast<const float*>(get(all, name).data());
    };
    CHECK(begin(back, std::string(kFfn) + "down_proj.weight") ==
          begin(there, "model.layers.1.mlp.down_proj.weight"));
    const float* qkv = begin(there, "model.layers.1.self_attn.qkv_proj.weight");
    CHECK(begin(back, std::string(kAttention) + "q_proj.weight") == qkv);
    CHECK(begin(back, std::string(kAttention) + "k_proj.weight") == qkv + 32 * 12);
  }

  TEST_CASE("dtypes stay; parts of several become f32") {
    DecoderConfig config = small("llama");
    const Names& theirs = family("llama").hugging_face;
    Named there = made(model_of(config, names_here(config), drawn(config, bf16)), theirs);
    for (const auto& [name, tensor] : there) CHECK(tensor.dtype() == bf16);
    for (auto& [name, tensor] : there)
      if (name == "model.layers.1.mlp.gate_proj.weight") tensor = raw::cast(tensor, f16);
    const Named back = made(model_of(config, theirs, there), names_here(config));
    CHECK(get(back, std::string(kFfn) + "up_proj.weight").dtype() == f32);
    CHECK(get(back, std::string(kFfn) + "down_proj.weight").dtype() == bf16);
  }

  TEST_CASE("tensors that are missing, surplus or of another shape are listed together") {
    const DecoderConfig config = small("llama");
    const Names& names = family("llama").hugging_face;
    const Named whole = made(own(config), names);
    CHECK(refusal(config, names, whole) == "");
    Named there = whole;
    std::erase_if(there, [](const auto& t) { return t.first.ends_with("0.mlp.up_proj.weight"); });
    std::erase_if(there, [](const auto& t) { return t.first == "lm_head.weight"; });
    there.emplace_back("model.layers.2.mlp.up_proj.weight", zeros({10, 16}));
    there.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", zeros({2}));
    for (auto& [name, tensor] : there) {
      if (name == "model.norm.weight") tensor = zeros({15});
      if (name == "model.layers.1.mlp.down_proj.weight") tensor = zeros({12, 10}, {.dtype = i64});
    }
    const std::string message = refusal(config, names, there);
    CHECK(contains(message,
                   "missing are model.layers.0.mlp.up_proj.weight, "
                   "lm_head.weight (the head is not tied to the embedding)"));
    CHECK(contains(message, "surplus are model.layers.2.mlp.up_proj.weight;"));
    CHECK(contains(message, "model.norm.weight [15] instead of [12]"));
    CHECK(contains(message, "model.layers.1.mlp.down_proj.weight of type i64 instead of a float"));
    CHECK(!contains(message, "inv_freq"));
  }

  TEST_CASE("a form without a place for a part is refused, naming the part") {
    const std::string message =
        message_of<FileError>([] { plan(own(small("qwen3")), family("llama").hugging_face); });
    CHECK(contains(message,
                   "has no place for the k_norm of layer 0, the k_norm of layer 1, the "
                   "q_norm of layer 0"));
    DecoderConfig some = small("qwen2");
    CHECK(contains(message_of<Error>([&] { plan(own(some), family("gpt2").hugging_face); }),
                   "no place for the gate of layer 0"));
  }
}
