// Every factory takes its options alone, by name, and agrees with its positional form.
#include <doctest/doctest.h>

#include <set>

#include <olm/nn/activations.h>
#include <olm/nn/attention.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/moe.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;

namespace {

struct Pair {
  Ref<Module> by_name, by_position;
};

std::vector<Pair> layers_with_options() {
  return {
      {ALiBiPositionalBias({.num_heads = 4}), ALiBiPositionalBias(4)},
      {AbsolutePositionalEmbedding({.max_seq_len = 6, .embed_dim = 8}),
       AbsolutePositionalEmbedding(6, 8)},
      {ClassicFFN({.embed_dim = 8}), ClassicFFN(8)},
      {ClassicMoEFFN({.embed_dim = 8}), ClassicMoEFFN(8)},
      {Dropout({.p = 0.5}), Dropout(0.5)},
      {ELU({.alpha = 2}), ELU(2)},
      {Embedding({.vocab_size = 11, .embedding_dim = 8}), Embedding(11, 8)},
      {FlashAttention({.embed_dim = 8, .num_heads = 2}), FlashAttention(8, 2)},
      {FlashAttentionwithRoPE({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6}),
       FlashAttentionwithRoPE(8, 2, 6)},
      {GLU({.dim = 1}), GLU(1)},
      {GatedFFN({.embed_dim = 8, .gated_unit = "reglu"}), GatedFFN(8, {.gated_unit = "reglu"})},
      {GatedAttention({.embed_dim = 8, .num_heads = 2}),
       GatedAttention({.embed_dim = 8, .num_heads = 2, .max_seq_len = 262144, .head_dim = 128})},
      {GeGLUFFN({.embed_dim = 8}), GeGLUFFN(8)},
      {GeGLUMoEFFN({.embed_dim = 8}), GeGLUMoEFFN(8)},
      {GroupedQueryAttention({.embed_dim = 8, .num_heads = 2, .num_kv_heads = 1, .max_seq_len = 6}),
       GroupedQueryAttention(
           {.embed_dim = 8, .num_heads = 2, .num_kv_heads = 1, .max_seq_len = 6})},
      {HeadGatedAttention({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6}),
       HeadGatedAttention({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6})},
      {LayerNorm({.dim = 8}), LayerNorm(8)},
      {LeakyReLU({.negative_slope = 0.1}), LeakyReLU(0.1)},
      {Linear({.in_features = 8, .out_features = 4}), Linear(8, 4)},
      {Llama3RotaryPositionalEmbedding({.head_dim = 4}), Llama3RotaryPositionalEmbedding(4)},
      {MoERouter({.embed_dim = 8, .num_experts = 4}), MoERouter(8, 4)},
      {MultiHeadAttention({.embed_dim = 8, .num_heads = 2}), MultiHeadAttention(8, 2)},
      {MultiHeadAttentionwithALiBi({.embed_dim = 8, .num_heads = 2}),
       MultiHeadAttentionwithALiBi(8, 2)},
      {MultiHeadAttentionwithRoPE({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6}),
       MultiHeadAttentionwithRoPE(8, 2, 6)},
      {MultiHeadLatentAttention({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6}),
       MultiHeadLatentAttention(8, 2, 6, 512, 128, 64, 128)},
      {OutputHead({.embed_dim = 8, .vocab_size = 11}), OutputHead(8, 11)},
      {PReLU({.num_parameters = 2}), PReLU(2)},
      {PartialRotaryPositionalEmbedding({.head_dim = 4}), PartialRotaryPositionalEmbedding(4)},
      {PartialScaledRotaryPositionalEmbedding({.head_dim = 4}),
       PartialScaledRotaryPositionalEmbedding(4)},
      {RMSNorm({.dim = 8}), RMSNorm(8)},
      {RotaryPositionalEmbedding({.head_dim = 4, .max_seq_len = 6}),
       RotaryPositionalEmbedding(4, 6)},
      {ScaledRotaryPositionalEmbedding({.head_dim = 4}), ScaledRotaryPositionalEmbedding(4)},
      {SinusoidalPositionalEmbedding({.embed_dim = 8}), SinusoidalPositionalEmbedding(8)},
      {SlidingWindowAttention({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6}),
       SlidingWindowAttention(
           {.embed_dim = 8, .num_heads = 2, .max_seq_len = 6, .window_size = 512})},
      {Softmax({.dim = 1}), Softmax(1)},
      {Softplus({.beta = 2}), Softplus(2)},
      {SwiGLUFFN({.embed_dim = 8}), SwiGLUFFN(8)},
      {SwiGLUMoEFFN({.embed_dim = 8}), SwiGLUMoEFFN(8)},
  };
}

/// The registry before any test adds to it.
const std::vector<std::string> built_in = layers().names();

}  // namespace

TEST_SUITE("nn/factories") {
  TEST_CASE("options by name give what sizes by position give") {
    std::vector<Pair> all = layers_with_options();
    all.push_back({TransformerBlock({.embed_dim = 8, .num_heads = 2, .max_seq_len = 6}),
                   TransformerBlock(8, 2, 6)});
    for (const auto& [by_name, by_position] : all) {
      INFO(by_name->type_name());
      CHECK(describe(*by_name) == describe(*by_position));
    }
    CHECK(LM({.vocab_size = 11, .embed_dim = 8, .num_heads = 2, .num_layers = 1, .max_seq_len = 6})
              ->num_parameters() > 0);
    CHECK(GPT2Model(
              {.vocab_size = 5, .embed_dim = 8, .num_layers = 1, .num_heads = 2, .max_seq_len = 4})
              ->num_parameters() > 0);
  }

  TEST_CASE("no layer of the registry that has options is left out") {
    std::set<std::string> tried;
    for (const auto& [by_name, by_position] : layers_with_options())
      tried.insert(by_name->type_name());
    for (const std::string& name : built_in) {
      if (name == "Parallel") continue;  // its options go with its children
      Ref<Module> made;
      try {
        made = layers().get(name)(Json::object(), {});
      } catch (const Error&) {  // wants sizes or children
      }
      if (made && made->options_json().size() == 0) continue;
      if (made && made->describes_children()) continue;
      const bool structure = name == "Residual" || name == "Recompute" ||
                             name == "TransformerBlock" || name == "MoEFeedForward";
      CHECK_MESSAGE((structure || tried.count(name) == 1), name);
    }
  }
}
