// docs/architectures.md: its C++ is what stands here, its JSON is run, and both describe the same.
#include <doctest/doctest.h>

#include <olm/autograd/ops.h>
#include <olm/engine/file.h>
#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/moe.h>
#include <olm/nn/registry.h>

using namespace olm;
using namespace olm::nn;

namespace {

// clang-format off
// [flash_attention]
Ref<AttentionModule> flash_attention_layer() {
  return FlashAttentionwithRoPE(
      {.embed_dim = 768, .num_heads = 12, .max_seq_len = 2048, .causal = true});
}
// [/flash_attention]

// [grouped_query]
Ref<AttentionModule> grouped_query() {
  return GroupedQueryAttention(
      {.embed_dim = 4096, .num_heads = 32, .num_kv_heads = 8, .max_seq_len = 8192});
}
// [/grouped_query]

// [feed_forward]
Ref<GatedFFNModule> feed_forward() { return SwiGLUFFN({.embed_dim = 768}); }
// [/feed_forward]

// [experts]
Ref<SwiGLUMoEFFNModule> experts() {
  return SwiGLUMoEFFN({.embed_dim = 768, .num_experts = 8, .top_k = 2});
}
// [/experts]

// [activation]
Ref<Module> activation() { return activations().get("gelu")(); }
// [/activation]

// [attention_block]
Ref<BlockModule> attention_block() {
  return Block({
      LayerNorm(512),
      MultiHeadAttentionwithRoPE(512, 8, 1024, {.causal = true}),
  });
}
// [/attention_block]

// [small_model]
Ref<BlockModule> small_model(int64_t vocab) {
  return Block({
      Embedding(vocab, 512),
      attention_block(),  // a block can contain other blocks
      OutputHead(512, vocab),
  });
}
// [/small_model]

// [transformer_block]
Ref<BlockModule> transformer_block(int64_t d_model = 512, int64_t n_heads = 8,
                                   int64_t max_seq_len = 1024) {
  return Block({
      Residual(Block({
          LayerNorm(d_model),
          MultiHeadAttentionwithRoPE(d_model, n_heads, max_seq_len, {.causal = true}),
      })),
      Residual(Block({
          LayerNorm(d_model),
          SwiGLUFFN(d_model),
      })),
  });
}
// [/transformer_block]

// [modern_layer]
Ref<BlockModule> modern_layer(int64_t d_model = 512, int64_t n_heads = 8,
                              int64_t max_seq_len = 1024) {
  const auto attention =
      FlashAttentionwithRoPE(d_model, n_heads, max_seq_len, {.causal = true});
  return Block({
      Residual(Block({RMSNorm(d_model), attention})),
      Residual(Block({RMSNorm(d_model), SwiGLUFFN(d_model)})),
  });
}
// [/modern_layer]

// [full_model]
Ref<BlockModule> full_model(int64_t vocab, int64_t d_model = 512) {
  const auto trunk = Repeat([&] { return transformer_block(d_model); }, 32);
  const auto wide_mlp = Block({LayerNorm(d_model), SwiGLUFFN(d_model)});
  return Block({
      Embedding(vocab, d_model),
      Parallel({wide_mlp, trunk}, merge::sum()),
      OutputHead(d_model, vocab),
  });
}
// [/full_model]

// [tied_model]
Ref<BlockModule> tied_model(int64_t vocab) {
  const auto model = Block({
      Block({Embedding(vocab, 64), AbsolutePositionalEmbedding(128, 64)}),
      Residual(Block({LayerNorm(64), FlashAttention(64, 4, {.causal = true})})),
      OutputHead(64, vocab),
  });
  model->parameter("blocks.2.blocks.1.weight") =
      model->parameter("blocks.0.blocks.0.embedding.weight");
  return model;
}
// [/tied_model]

// [branches]
Ref<ParallelModule> branches() {
  return Parallel({Linear(512, 200), Linear(512, 312)}, merge::cat(), -1);
}
// [/branches]

// [largest_of_branches]
Ref<ParallelModule> largest_of_branches() {
  return Parallel({Linear(512, 64), Linear(512, 64)},
                  [](const Tensors& outputs, int64_t) { return max(stack(outputs, 0), 0); });
}
// [/largest_of_branches]

// [gated_residual]
/// x + sigmoid(gate) · block(x), where gate is one learned number.
class GatedResidual final : public BaseCombinator {
 public:
  explicit GatedResidual(Ref<Module> block) : block(this, "block", std::move(block)) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    return x + cast(sigmoid(gate), x.dtype()) * block(x, ctx);
  }
  std::string type_name() const override { return "GatedResidual"; }
  Child<> block;
  Parameter gate{this, "gate", {1}, init::zeros};
};
// [/gated_residual]

// [identity_attention]
struct IdentityAttentionOptions {
  int64_t embed_dim = 0;
  void fields(auto& v) { v("embed_dim", embed_dim); }
};
class IdentityAttention final : public Layer<IdentityAttentionOptions> {
 public:
  explicit IdentityAttention(IdentityAttentionOptions o)
      : Layer(o), proj(this, "proj", Linear(o.embed_dim, o.embed_dim)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return proj(x, ctx); }
  std::string type_name() const override { return "IdentityAttention"; }
  Child<> proj;
};
// [/identity_attention]

// [register_layers]
void register_layers() {
  layers().add("GatedResidual", [](const Json&, DescribedChildren children) -> Ref<Module> {
    return make<GatedResidual>(children.at(0).second);
  });
  layers().add("IdentityAttention", layer_maker<IdentityAttention>("IdentityAttention"));
}
// [/register_layers]

// [custom_layer]
Ref<BlockModule> custom_layer(int64_t d_model = 512) {
  return Block({
      Residual(Block({RMSNorm(d_model),
                      make<IdentityAttention>(IdentityAttentionOptions{.embed_dim = d_model})})),
      make<GatedResidual>(Block({RMSNorm(d_model), SwiGLUFFN(d_model)})),
  });
}
// [/custom_layer]

// clang-format on

constexpr int64_t kVocab = 257;
const std::string kTests = std::string(OLM_FIXTURES) + "/../";

/// The listings of a kind ("cpp", "json") in the guide, by name.
std::map<std::string, std::string> listings(const std::string& kind) {
  const std::string text = read_file(kTests + "../docs/architectures.md");
  const std::string mark = "<!-- " + kind + ": ", fence = "```" + kind + "\n";
  std::map<std::string, std::string> result;
  size_t fences = 0;
  for (size_t at = text.find(fence); at != std::string::npos; at = text.find(fence, at + 1))
    ++fences;
  for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) {
    const size_t name = at + mark.size(), end = text.find(" -->\n" + fence, name);
    REQUIRE(end != std::string::npos);
    const size_t begin = end + 5 + fence.size();
    const std::string body = text.substr(begin, text.find("```", begin) - begin);
    result[text.substr(name, end - name)] = body;
  }
  CHECK_MESSAGE(result.size() == fences, "every listing of " << kind << " has a name of its own");
  return result;
}

/// The same models by the C++ listings.
const std::map<std::string, std::function<Ref<Module>()>>& twins() {
  static const std::map<std::string, std::function<Ref<Module>()>> table = {
      {"activation", [] { return activation(); }},
      {"attention_block", [] { return attention_block(); }},
      {"branches", [] { return branches(); }},
      {"custom_layer", [] { return custom_layer(); }},
      {"experts", [] { return experts(); }},
      {"feed_forward", [] { return feed_forward(); }},
      {"flash_attention", [] { return flash_attention_layer(); }},
      {"full_model", [] { return full_model(kVocab); }},
      {"grouped_query", [] { return grouped_query(); }},
      {"modern_layer", [] { return modern_layer(); }},
      {"small_model", [] { return small_model(kVocab); }},
      {"tied_model", [] { return tied_model(kVocab); }},
      {"transformer_block", [] { return transformer_block(); }},
  };
  return table;
}

/// The width of a listing's input.
int64_t width_of(const std::string& name) {
  if (name == "grouped_query") return 4096;
  return name == "flash_attention" || name == "feed_forward" || name == "experts" ? 768 : 512;
}

/// Runs a model on ids, or a layer on vectors, forward and backward, on meta.
void check_runs(Module& module, const std::string& name) {
  INFO(name);
  init(module, {.device = meta});
  module.to(meta);
  const bool is_model = name.ends_with("_model");
  const int64_t width = width_of(name);
  const Tensor x = is_model ? empty({1, 4}, {i64, meta}) : empty({1, 4, width}, {f32, meta});
  Context ctx;
  const Tensor y = module.forward(x, ctx);
  const bool narrow = name == "largest_of_branches";
  CHECK(y.shape() == Shape{1, 4, is_model ? kVocab : narrow ? 64 : width});
  if (module.num_parameters() > 0) backward(y, {.gradient = empty_like(y)});
  for (const Tensor& p : module.parameters()) CHECK(grad(p).defined());
}

}  // namespace

TEST_SUITE("docs/architectures") {
  TEST_CASE("the guide's C++ is what is compiled here") {
    const std::string source = read_file(kTests + "docs/architectures_test.cpp");
    for (const auto& [name, text] : listings("cpp"))
      CHECK_MESSAGE(
          source.find("// [" + name + "]\n" + text + "// [/" + name + "]\n") != std::string::npos,
          name);
  }

  TEST_CASE("the guide's JSON runs and says what its C++ says") {
    register_layers();
    const auto described = listings("json");
    for (const auto& [name, text] : described) {
      const Ref<Module> model = build_architecture(Json::parse(text, name), {.vocab_size = kVocab});
      if (const auto twin = twins().find(name); twin != twins().end()) {
        const Ref<Module> written = twin->second();
        CHECK_MESSAGE(describe(*model) == describe(*written), name);
        CHECK(model->num_parameters() == written->num_parameters());
      }
      check_runs(*model, name);
    }
    for (const auto& [name, make_twin] : twins()) CHECK_MESSAGE(described.count(name), name);
    const Ref<Module> custom = largest_of_branches();
    check_runs(*custom, "largest_of_branches");
  }
}
