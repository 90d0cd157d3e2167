// The programs of the guides "Building blocks" and "The Block System", each in C++ and trained.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/optim.h>
#include <olm/nn/registry.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 23, kTime = 8;

/// Sequences that count upwards modulo the vocabulary: each next token follows from the last.
struct Batch {
  Tensor inputs, targets;
};
Batch counting(Generator& rng) {
  std::vector<int64_t> inputs, targets;
  for (int b = 0; b < 4; ++b)
    for (int64_t t = 0, at = rng.below(kVocab); t < kTime; ++t, ++at) {
      inputs.push_back(at % kVocab);
      targets.push_back((at + 1) % kVocab);
    }
  return {from_host(inputs, {4, kTime}), from_host(targets, {4, kTime})};
}

/// Trains a language model; its loss must fall to less than `share` of the first one.
void check_trains(Module& model, double share = 0.7, DType dtype = f32) {
  AdamW optimizer(model.parameters(), {.lr = 0.01});
  Generator data(5);
  double first = 0, last = 0;
  for (int step = 0; step < 25; ++step) {
    const Batch batch = counting(data);
    Context ctx{.dtype = dtype};
    const Tensor loss = model.loss(batch.inputs, batch.targets, ctx);
    last = loss.item<double>();
    if (step == 0) first = last;
    backward(loss);
    optimizer.step();
  }
  CHECK(last < share * first);
}

/// Trains a layer to map vectors to other vectors.
void check_layer_trains(Module& layer, int64_t width) {
  Generator rng(4);
  const Tensor x = randn({2, kTime, width}, rng), wanted = randn({2, kTime, width}, rng);
  AdamW optimizer(layer.parameters(), {.lr = 0.01});
  double first = 0, last = 0;
  for (int step = 0; step < 15; ++step) {
    const Tensor loss = mean(square(layer(x) - wanted));
    last = loss.item<double>();
    if (step == 0) first = last;
    backward(loss);
    optimizer.step();
  }
  CHECK(last < 0.9 * first);
}

Ref<BlockModule> attention_block(int64_t d_model) {
  return Block({
      LayerNorm(d_model),
      MultiHeadAttentionwithRoPE(d_model, 4, 16, {.causal = true}),
  });
}

Ref<BlockModule> transformer_block(int64_t d_model = 32, int64_t n_heads = 4,
                                   int64_t max_seq_len = 16) {
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

/// x + sigmoid(g) · block(x), where g is a learned scalar gate.
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

/// A toy attention replacement.
class IdentityAttention final : public Module {
 public:
  explicit IdentityAttention(int64_t d_model) : proj(this, "proj", Linear(d_model, d_model)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return proj(x, ctx); }
  std::string type_name() const override { return "IdentityAttention"; }
  Child<> proj;
};

}  // namespace

TEST_SUITE("nn/seeds") {
  TEST_CASE("attention layers and networks by name and size") {
    const auto attn = FlashAttentionwithRoPE(
        {.embed_dim = 32, .num_heads = 4, .max_seq_len = 16, .causal = true});
    const auto gqa = GroupedQueryAttention(
        {.embed_dim = 32, .num_heads = 8, .num_kv_heads = 2, .max_seq_len = 16});
    const auto ffn = SwiGLUFFN(32);
    for (const Ref<Module>& layer : std::vector<Ref<Module>>{attn, gqa, ffn}) {
      INFO(layer->type_name());
      init(*layer, {.seed = 1});
      check_layer_trains(*layer, 32);
    }
  }

  TEST_CASE("activations by name") {
    const Ref<Module> act = activations().get("gelu")();
    CHECK(act->type_name() == "GELU");
    CHECK(to_host<double>(act(from_host<double>({1}, {1})))[0] ==
          doctest::Approx(0.8413447460685429));
  }

  TEST_CASE("putting it together: norm, attention and network in residuals") {
    const auto layer = [](int64_t d_model, int64_t n_heads, int64_t max_seq_len) {
      return Block({
          Residual(Block({RMSNorm(d_model), FlashAttentionwithRoPE(d_model, n_heads, max_seq_len,
                                                                   {.causal = true})})),
          Residual(Block({RMSNorm(d_model), SwiGLUFFN(d_model)})),
      });
    };
    const auto built = layer(32, 4, 16);
    init(built, {.seed = 2});
    check_layer_trains(*built, 32);
  }

  TEST_CASE("a block in a block is a model") {
    const auto attention = attention_block(32);
    const auto model = Block({
        Embedding(kVocab, 32),
        attention,
        OutputHead(32, kVocab),
    });
    init(model, {.seed = 3});
    CHECK(attention(ones({2, kTime, 32})).shape() == Shape{2, kTime, 32});
    CHECK(model(from_host<int64_t>({1, 2, 3}, {1, 3})).shape() == Shape{1, 3, kVocab});
    check_trains(*model);
  }

  TEST_CASE("weights are tied where the first block is the embedding") {
    const auto model = Block({Embedding(kVocab, 32), attention_block(32), OutputHead(32, kVocab)});
    const int64_t untied = model->num_parameters();
    model->parameter("blocks.2.blocks.1.weight") = model->parameter("blocks.0.embedding.weight");
    CHECK(model->num_parameters() == untied - kVocab * 32);
    init_gpt2(model, 1, {.seed = 3});
    const auto keys = model->state_dict();
    CHECK(keys.size() == model->parameters().size() + 1);
    check_trains(*model);
    check_same_bits(model->parameter("blocks.2.blocks.1.weight").tensor(),
                    model->parameter("blocks.0.embedding.weight").tensor(), "tied");
  }

  TEST_CASE("weights are tied where the first block holds token and position") {
    const auto model = Block({
        Block({Embedding(kVocab, 32), AbsolutePositionalEmbedding(16, 32)}),
        Residual(Block({LayerNorm(32), FlashAttention(32, 4, {.causal = true})})),
        OutputHead(32, kVocab),
    });
    model->parameter("blocks.2.blocks.1.weight") =
        model->parameter("blocks.0.blocks.0.embedding.weight");
    init_gpt2(model, 1, {.seed = 3});
    check_trains(*model);
    CHECK(model->parameter("blocks.2.blocks.1.weight")
              .is_tied_to(model->parameter("blocks.0.blocks.0.embedding.weight")));
  }

  TEST_CASE("repeated layers have weights of their own") {
    const auto stack = Repeat([] { return transformer_block(32, 4, 16); }, 3);
    init(stack, {.seed = 1});
    CHECK(stack->stack.size() == 3);
    CHECK(!stack->parameter("stack.0.blocks.1.block.blocks.1.up_proj.weight")
               .is_tied_to(stack->parameter("stack.1.blocks.1.block.blocks.1.up_proj.weight")));
    check_layer_trains(*stack, 32);
  }

  TEST_CASE("branches are concatenated by a merge of one's own") {
    const auto mixture = Parallel(
        {Linear(32, 10), Linear(32, 22)},
        [](const Tensors& outputs, int64_t dim) { return cat(outputs, dim); }, -1);
    init(mixture, {.seed = 1});
    CHECK(mixture(ones({2, 3, 32})).shape() == Shape{2, 3, 32});
    check_layer_trains(*mixture, 32);
  }

  TEST_CASE("a full model with all three combinators") {
    constexpr int64_t d_model = 32;
    const auto trunk = Repeat([] { return transformer_block(d_model); }, 3);
    const auto wide_mlp = Block({LayerNorm(d_model), SwiGLUFFN(d_model)});
    const auto model = Block({
        Embedding(kVocab, d_model),
        Parallel({wide_mlp, trunk},
                 [](const Tensors& outs, int64_t) { return sum(stack(outs, 0), {0}); }),
        OutputHead(d_model, kVocab),
    });
    init(model, {.seed = 4});
    CHECK(model(from_host<int64_t>({1, 2, 3}, {1, 3})).shape() == Shape{1, 3, kVocab});
    check_trains(*model);
  }

  TEST_CASE("a combinator of one's own: a gated residual") {
    const auto gated = make<GatedResidual>(Block({LayerNorm(32), SwiGLUFFN(32)}));
    const auto model = Block({Embedding(kVocab, 32), gated, OutputHead(32, kVocab)});
    init(model, {.seed = 5});
    CHECK(model->parameter("blocks.1.gate").shape() == Shape{1});
    check_trains(*model);
    CHECK(gated->gate.tensor().item<float>() != 0);
    init(model, {.seed = 5});
    check_trains(*model, 0.7, bf16);
    CHECK(gated->gate.tensor().dtype() == f32);
    // Once it is in the registry, the model can be stored with the block it was given.
    layers().add("GatedResidual", [](const Json&, DescribedChildren children) -> Ref<Module> {
      return make<GatedResidual>(children.at(0).second);
    });
    const TempFolder folder;
    save(model, folder.path());
    const Tensor ids = from_host<int64_t>({1, 2, 3}, {1, 3});
    check_same_bits(load(folder.path())(ids), model(ids), "loaded");
  }

  TEST_CASE("a module of one's own in a block") {
    const auto layer = Block({
        Residual(Block({RMSNorm(32), make<IdentityAttention>(32)})),
        Residual(Block({RMSNorm(32), SwiGLUFFN(32)})),
    });
    init(layer, {.seed = 6});
    CHECK(layer->parameter("blocks.0.block.blocks.1.proj.weight").shape() == Shape{32, 32});
    check_layer_trains(*layer, 32);
  }

  TEST_CASE("a built model can be edited") {
    const auto model = LM({.vocab_size = kVocab,
                           .embed_dim = 32,
                           .num_heads = 4,
                           .num_layers = 2,
                           .max_seq_len = 16,
                           .tie_embeddings = false});
    const int64_t before = model->num_parameters();
    model->replace("blocks.1.stack.0.blocks.0.block.blocks.1",
                   GroupedQueryAttention(
                       {.embed_dim = 32, .num_heads = 4, .num_kv_heads = 2, .max_seq_len = 16}));
    CHECK(model->num_parameters() == before - 4 * 32 - 2 * 16 * 32);
    CHECK(model->get<AttentionModule>("blocks.1.stack.0.blocks.0.block.blocks.1")
              ->options.num_kv_heads == 2);
    init(model, {.seed = 7});
    model->freeze("blocks.0");
    CHECK(model->num_parameters(true) == model->num_parameters() - kVocab * 32);
    const Tensor table = raw::clone(model->parameter("blocks.0.embedding.weight").tensor());
    check_trains(*model);
    check_same_bits(model->parameter("blocks.0.embedding.weight").tensor(), table, "frozen");
    const std::string text = summary(*model);
    for (const char* part : {"GroupedQueryAttention", "up_proj", "[23,32]", "OutputHead"})
      CHECK_MESSAGE(text.find(part) != std::string::npos, part);
  }
}
