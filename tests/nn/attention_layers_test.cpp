// Attention layers of users, and what model.json says of all of them.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/view.h>
#include <olm/engine/json.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/model_io.h>
#include <olm/nn/optim.h>
#include <tests/support/attention_variants.h>
#include <tests/support/checks.h>
#include <tests/support/sequence.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// Softmax replaced by a sigmoid of each score (Ramapuram et al. 2024, arXiv:2409.04431).
class SigmoidAttention final : public AttentionwithRoPEBase {
 public:
  explicit SigmoidAttention(const AttentionOptions& o)
      : AttentionwithRoPEBase(o, {.name = "SigmoidAttention", .defaults = {.causal = true}}) {}

 protected:
  Tensor compute_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                           Context&) override {
    const Tensor scores = matmul(q, transpose(k, -2, -1)) * scale();
    return matmul(sigmoid(scores + mask), v);
  }
};

/// Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236): weights φ(q)·φ(k) with
/// φ = elu + 1, divided by their sum.
template <class Base>
class LinearAttention final : public Base {
 public:
  using Base::Base;

 protected:
  Tensor compute_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask,
                           Context&) override {
    Tensor weights = matmul(elu(q) + 1, transpose(elu(k) + 1, -2, -1));
    if (mask.defined()) weights = weights * exp(mask);
    return matmul(weights / sum(weights, -1, {.keepdim = true}), v);
  }
};

/// Sequences of which each id follows from the one before.
Tensor counting(int64_t first) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 8; ++i) ids.push_back((3 * (first + i) + 1) % 11);
  return from_host(ids, {1, 8});
}

}  // namespace

TEST_SUITE("nn/attention_layers") {
  TEST_CASE("a user's class computes in its own way, in a Block, with a cache, and is rebuilt") {
    layers().add("SigmoidAttention", layer_maker<SigmoidAttention>("SigmoidAttention"));
    const auto layer = make<SigmoidAttention>(AttentionOptions{
        .embed_dim = 12, .num_heads = 3, .num_kv_heads = 1, .max_seq_len = 9, .bias = false});
    const auto block = Block({Residual(Block({RMSNorm(12), layer}))});
    init(block, {.seed = 2});
    Generator rng(8);
    const Tensor x = randn({2, 5, 12}, rng);
    const NoGrad guard;
    const Tensor y = block(x);
    check_close(in_pieces(*block, x, {2, 1, 2}), y, f32, 12, "cache");
    const auto usual = FlashAttentionwithRoPE({.embed_dim = 12,
                                               .num_heads = 3,
                                               .num_kv_heads = 1,
                                               .max_seq_len = 9,
                                               .causal = true,
                                               .bias = false});
    usual->load_state_dict(layer->state_dict());
    CHECK(difference(layer(x), usual(x)).relative_l2 > 0.1);

    // One token attends itself alone: sigmoid(scale · q·k) · v.
    const Tensor one = tokens(x, 0, 1);
    Context ctx;
    const Tensor q = view((*layer->q_proj)(one, ctx), {2, 1, 3, 4});
    const Tensor k = view((*layer->k_proj)(one, ctx), {2, 1, 1, 4});
    const Tensor v = view((*layer->v_proj)(one, ctx), {2, 1, 1, 4});
    const Tensor weight = sigmoid(matmul(q, transpose(k, -2, -1)) * 0.5);
    check_close(layer(one), layer->out_proj(view(weight * v, {2, 1, 12}), ctx), f32, 12, "formula");

    const TempFolder folder;
    save(*block, folder.path());
    check_same_bits(load(folder.path())(x), y, "rebuilt");
  }

  TEST_CASE("a user's class is a row by name: in a model, trained, saved and loaded") {
    attentions().add("LinearAttention", {.name = "LinearAttention",
                                         .make = make_attention<LinearAttention<AttentionBase>>});
    attentions().add("LinearAttentionwithRoPE",
                     {.name = "LinearAttentionwithRoPE",
                      .defaults = {.bias = false},
                      .make = make_attention<LinearAttention<AttentionwithRoPEBase>>});
    for (const std::string name : {"LinearAttention", "LinearAttentionwithRoPE"}) {
      INFO(name);
      const auto model = Block(
          {Embedding(11, 12), TransformerBlock(12, 3, 9, {.attention = name}), OutputHead(12, 11)});
      init(model, {.seed = 5});
      AdamW optimizer(model->parameters(), {.lr = 0.01});
      double first = 0, last = 0;
      for (int64_t step = 0; step < 12; ++step) {
        Context ctx;
        const Tensor loss = model->loss(counting(step), counting(step + 1), ctx);
        last = loss.item<double>();
        if (step == 0) first = last;
        backward(loss);
        optimizer.step();
      }
      CHECK(last < 0.8 * first);

      const TempFolder folder;
      save(*model, folder.path());
      const Ref<Module> again = load(folder.path());
      const NoGrad guard;
      check_same_bits(again(counting(2)), model(counting(2)), "loaded");
      const auto layer = again->get<AttentionModule>("blocks.1.blocks.0.block.blocks.1");
      CHECK(dynamic_cast<AttentionBase*>(layer.get()) != nullptr);
      CHECK(layer->type_name() == name);
      Generator rng(3);
      const Tensor x = randn({1, 7, 12}, rng), whole = layer(x);
      check_close(in_pieces(*layer, x, {3, 1, 1, 2}), whole, f32, 12, "cache");
      check_close(tokens(whole, 0, 4), layer(tokens(x, 0, 4)), f32, 12, "causal");
    }
  }

  TEST_CASE("what latent attention and gates have no use for is refused") {
    const AttentionOptions o{.embed_dim = 12, .num_heads = 3, .max_seq_len = 8};
    const auto refused = [&](const char* name, auto change, std::vector<std::string> parts) {
      AttentionOptions other = o;
      change(other);
      parts.push_back(name);
      check_error([&] { Attention(name, other); }, parts);
    };
    const char* latent = "MultiHeadLatentAttention";
    refused(latent, [](auto& a) { a.num_kv_heads = 1; }, {"num_kv_heads"});
    refused(latent, [](auto& a) { a.head_dim = 8; }, {"head_dim"});
    refused(latent, [](auto& a) { a.use_qk_norm = true; }, {"use_qk_norm"});
    refused(latent, [](auto& a) { a.use_rope = false; }, {"use_rope"});
    refused(latent, [](auto& a) { a.partial_rotary_factor = 0.5; }, {"partial_rotary_factor"});
    refused(latent, [](auto& a) { a.kv_lora_rank = 0; }, {"kv_lora_rank", "0"});
    refused(latent, [](auto& a) { a.q_lora_rank = -1; }, {"q_lora_rank", "-1"});
    refused(latent, [](auto& a) { a.max_seq_len.reset(); }, {"max_seq_len"});
    refused("FlashAttention", [](auto& a) { a.kv_lora_rank = 4; }, {"kv_lora_rank", "latent"});
    refused("FlashAttention", [](auto& a) { a.qk_rope_head_dim = 4; }, {"qk_rope_head_dim"});
    refused("FlashAttention", [](auto& a) { a.gate_per_head = true; }, {"use_output_gate"});
    check_error([] { MultiHeadLatentAttention(12, 3, 8, 4, 4, 3, 4); }, {"RoPE", "even", "3"});
    const auto row = Attention({.name = "Row",
                                .defaults = {.causal = true,
                                             .bias = false,
                                             .use_rope = true,
                                             .kv_lora_rank = 4,
                                             .qk_nope_head_dim = 2,
                                             .qk_rope_head_dim = 2}},
                               o);
    init(row);
    check_error([&] { row(ones({1, 2, 12})); }, {"Row", "kv_lora_rank"});
  }

  TEST_CASE("MultiHeadAttention layers compute in steps, the others by the fused op") {
    for (const std::string& name : attentions().names()) {
      INFO(name);
      const auto layer = Attention(name, {.embed_dim = 8, .num_heads = 2, .max_seq_len = 4});
      CHECK((dynamic_cast<AttentionBase*>(layer.get()) != nullptr) ==
            (name.starts_with("MultiHeadAttention") || name.starts_with("Linear")));
    }
  }

  TEST_CASE("every layer runs on meta") {
    for (const std::string& name : attentions().names()) {
      INFO(name);
      const auto layer = Attention(name, {.embed_dim = 8,
                                          .num_heads = 2,
                                          .max_seq_len = 4,
                                          .window_size = 2,
                                          .use_alibi = true,
                                          .use_attention_sink = true});
      init(layer, {.device = meta});
      CHECK(layer(empty({2, 3, 8}, {.device = meta})).shape() == Shape{2, 3, 8});
    }
  }

  TEST_CASE("a row of data is a layer") {
    const AttentionKind kind{
        .name = "LocalAttention",
        .defaults = {.causal = true, .bias = false, .use_qk_norm = true, .window_size = 2},
        .fields = {"embed_dim", "num_heads", "window_size"}};
    layers();  // made before the row is there
    attentions().add(kind.name, kind);
    CHECK(knows_layer(kind.name));
    const auto block = TransformerBlock(12, 3, 9, {.attention = "LocalAttention"});
    const auto layer = block->get<AttentionModule>("blocks.0.block.blocks.1");
    CHECK(layer->type_name() == "LocalAttention");
    CHECK(*layer->options.window_size == 2);
    CHECK(layer->parameter("q_norm.weight").shape() == Shape{4});
    CHECK(describe(*layer).dump() ==
          R"({"type":"LocalAttention","options":{"embed_dim":12,"num_heads":3,"window_size":2}})");
    const auto other =
        Attention(kind, {.embed_dim = 12, .num_heads = 3, .num_kv_heads = 1, .use_qk_norm = false});
    CHECK(describe(*other).dump() ==
          R"({"type":"LocalAttention","options":{"embed_dim":12,"num_heads":3,"num_kv_heads":1,)"
          R"("use_qk_norm":false,"window_size":2}})");
    CHECK(describe(*build(describe(*other))) == describe(*other));
    check_error([] { Attention("NoAttention", {}); }, {"NoAttention", "FlashAttention"});
  }

  TEST_CASE("model.json lists the fields that each layer has always had") {
    const TempFolder folder;
    const std::string before = OLM_FIXTURES "/attention_model.json";
    const Ref<Module> model = load_architecture(before);
    save_architecture(*model, folder / "model.json");
    const Ref<Module> again = load_architecture(folder / "model.json");
    CHECK(describe(*again).dump() == read_json(before).at("model").dump());
    init(*model);
    CHECK(model->num_parameters() == 9036);
  }

  TEST_CASE("options beyond a layer's own are kept in its description") {
    for (const AttentionOptions& o :
         {AttentionOptions{.embed_dim = 12, .num_heads = 6, .num_kv_heads = 2, .window_size = 3},
          AttentionOptions{.embed_dim = 12, .num_heads = 6, .max_seq_len = 5, .bias = true},
          AttentionOptions{.embed_dim = 12,
          .num_heads = 6,
          .max_seq_len = 5,
          .use_bias = true,
          .use_attention_sink = true}})
      for (const std::string& name : attentions().names()) {
        AttentionOptions own = o;
        own.max_seq_len = 5;
        if (is_latent(name)) own.num_kv_heads.reset();
        const auto layer = Attention(name, own);
        const Json json = describe(*layer);
        INFO(json.dump());
        const Ref<Module> again = build(json);
        init(*layer);
        init(*again);
        CHECK(describe(*again) == json);
        const auto keys = layer->state_dict(), keys_again = again->state_dict();
        REQUIRE(keys.size() == keys_again.size());
        for (size_t i = 0; i < keys.size(); ++i) {
          CHECK(keys[i].first == keys_again[i].first);
          CHECK(keys[i].second.shape() == keys_again[i].second.shape());
        }
      }
  }
}
