#include <doctest/doctest.h>

#include <limits>

#include <olm/nn/attention.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>
#include <tests/support/sequence.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// Calls another module: stands where a Linear stood without being one.
class Wrapped final : public Module {
 public:
  explicit Wrapped(Ref<Module> inner) : inner(this, "inner", std::move(inner)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return inner(x, ctx); }
  std::string type_name() const override { return "Wrapped"; }
  Child<> inner;
};

std::vector<Ref<Module>> causal_layers() {
  std::vector<Ref<Module>> layers{
      FlashAttention(12, 3, {.causal = true}),
      MultiHeadAttention(12, 3, {.causal = true}),
      MultiHeadAttention(12, 3, {.causal = true, .window_size = 3}),
      FlashAttention(12, 3, {.causal = true, .window_size = 3, .use_alibi = true}),
      MultiHeadAttentionwithALiBi(12, 3),
      MultiHeadAttentionwithRoPE(12, 3, 9, {.causal = true}),
      FlashAttentionwithRoPE({.embed_dim = 12, .num_heads = 3, .max_seq_len = 9, .causal = true}),
      GroupedQueryAttention({.embed_dim = 12,
                             .num_heads = 6,
                             .num_kv_heads = 2,
                             .max_seq_len = 9,
                             .use_qk_norm = true}),
  };
  for (const Ref<Module>& layer : layers) init(*layer, {.seed = 4});
  return layers;
}

const double kNone = -std::numeric_limits<double>::infinity();

/// Two layers with the same weights: by the fused op, and in steps.
struct Pair {
  explicit Pair(const AttentionOptions& o, DType dtype = f32)
      : fused(Attention(AttentionKind{.name = "Fused"}, o)),
        steps(Attention({.name = "Steps", .make = make_attention<AttentionBase>}, o)) {
    init(fused, {.seed = 6, .dtype = dtype});
    Generator rng(3);
    if (fused->attention_sink)
      fused->attention_sink->assign(randn({o.num_heads}, rng, {.dtype = dtype}));
    steps->load_state_dict(fused->state_dict());
  }
  Ref<AttentionModule> fused, steps;
};

/// Output and gradients of x, all parameters and the mask.
Tensors in_and_out(Module& layer, const Tensor& x, Context ctx) {
  const Tensor in = raw::clone(x);
  set_requires_grad(in);
  layer.zero_grad();
  const Tensor y = layer.forward(in, ctx);
  CHECK(y.dtype() == x.dtype());
  Generator rng(12);
  backward(y, {.gradient = raw::cast(randn(y.shape(), rng), y.dtype())});
  Tensors all{y, grad(in)};
  for (const Tensor& p : layer.parameters()) all.push_back(grad(p));
  if (requires_grad(ctx.mask)) all.push_back(grad(ctx.mask));
  return all;
}

}  // namespace

TEST_SUITE("nn/attention") {
  TEST_CASE("values and gradients are OLM's") {
    const AttentionOptions causal{.embed_dim = 12, .num_heads = 3, .causal = true};
    const AttentionOptions rotary{
        .embed_dim = 12, .num_heads = 3, .max_seq_len = 8, .causal = true};
    check_layer_parity("MultiHeadAttention", MultiHeadAttention(12, 3));
    check_layer_parity("MultiHeadAttention.causal", MultiHeadAttention(causal));
    check_layer_parity("MultiHeadAttention.mask", MultiHeadAttention(causal));
    check_layer_parity("MultiHeadAttentionwithRoPE", MultiHeadAttentionwithRoPE(rotary));
    check_layer_parity("FlashAttention", FlashAttention(12, 3));
    check_layer_parity("FlashAttention.mask", FlashAttention(causal));
    check_layer_parity(
        "FlashAttentionwithRoPE",
        FlashAttentionwithRoPE(12, 3, 8, {.causal = true, .bias = false, .rope_theta = 500}));
    check_layer_parity("GroupedQueryAttention",
                       GroupedQueryAttention(
                           {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 2, .max_seq_len = 8}));
    check_layer_parity("GroupedQueryAttention.all",
                       GroupedQueryAttention({.embed_dim = 12,
                                              .num_heads = 4,
                                              .num_kv_heads = 1,
                                              .max_seq_len = 8,
                                              .head_dim = 6,
                                              .rope_theta = 100,
                                              .use_bias = true,
                                              .qkv_bias = true,
                                              .use_qk_norm = true,
                                              .rms_norm_eps = 1e-3,
                                              .attention_scale = 0.7,
                                              .attn_logit_softcap = 1.5}));
  }

  TEST_CASE("a cache gives what the whole sequence gives") {
    Generator rng(6);
    const Tensor x = randn({2, 9, 12}, rng);
    for (const Ref<Module>& layer : causal_layers()) {
      INFO(layer->type_name());
      const NoGrad guard;
      const Tensor whole = layer(x);
      check_close(in_pieces(*layer, x, {4, 1, 1, 3}), whole, f32, 12, "pieces");
      check_close(in_pieces(*layer, x, {1, 1, 1, 1, 1, 1, 1, 1, 1}), whole, f32, 12, "one by one");
    }
  }

  TEST_CASE("a windowed cache meets masks of all keys") {
    Generator rng(6);
    const Tensor x = randn({2, 9, 12}, rng), mask = randn({9, 9}, rng);
    const NoGrad guard;
    const Pair pair({.embed_dim = 12, .num_heads = 3, .causal = true, .window_size = 3});
    for (const Ref<AttentionModule>& layer : {pair.fused, pair.steps}) {
      INFO(layer->type_name());
      Context whole{.mask = mask};
      const Tensor wanted = layer(x, whole);
      KVCache cache(9);
      for (int64_t t = 0; t < 9; ++t) {
        Context ctx{.mask = raw::slice(raw::slice(mask, 0, t, t + 1), 1, 0, t + 1),
                    .cache = &cache};
        cache.begin();
        check_close(layer(tokens(x, t, t + 1), ctx), tokens(wanted, t, t + 1), f32, 12, "token");
        cache.advance(1);
      }
    }
  }

  TEST_CASE("steps and the fused op compute the same") {
    const AttentionOptions plain{.embed_dim = 12, .num_heads = 6};
    AttentionOptions grouped = plain, all = plain, causal = plain;
    causal.causal = true;
    grouped.num_kv_heads = 2, grouped.window_size = 3;
    all.num_kv_heads = 3, all.max_seq_len = 9, all.head_dim = 6, all.value_dim = 5;
    all.causal = true, all.bias = false, all.qkv_bias = true, all.use_qk_norm = true;
    all.attention_scale = 0.7, all.attn_logit_softcap = 1.5, all.window_size = 5;
    all.use_rope = true, all.partial_rotary_factor = 0.7, all.use_alibi = true;
    all.use_attention_sink = true, all.use_output_gate = true;
    const Tensor keep =
        raw::cast(from_host<int64_t>({1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0,
                                      1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1},
                                     {6, 6}),
                  boolean);
    for (const DType dtype : {f32, bf16, f64})
      for (const AttentionOptions& o : {plain, causal, grouped, all})
        for (const std::string mask : {"none", "boolean", "added", "documents"}) {
          INFO(name_of(dtype) << " with " << mask << ", " << to_json(o).dump());
          Generator rng(8);
          const Pair pair(o, dtype == bf16 ? f32 : dtype);
          const Tensor x = raw::cast(randn({2, 6, 12}, rng), dtype);
          Context ctx;
          if (mask == "boolean") ctx.mask = keep;
          if (mask == "added") {
            ctx.mask = randn({6, 1, 6}, rng);
            set_requires_grad(ctx.mask);
          }
          if (mask == "documents")
            ctx.documents = from_host<int64_t>({0, 0, 0, 5, 5, 5, 1, 1, 2, 2, 2, 1}, {2, 6});
          const Tensors fused = in_and_out(*pair.fused, x, ctx);
          if (ctx.mask.defined()) zero_grad(ctx.mask);
          const Tensors steps = in_and_out(*pair.steps, x, ctx);
          REQUIRE(fused.size() == steps.size());
          for (size_t i = 0; i < fused.size(); ++i) {
            CHECK(!raw::has_nonfinite(steps[i]));
            check_close(steps[i], fused[i], dtype, 12, "value " + std::to_string(i), 0.5);
          }
        }
  }

  TEST_CASE("documents attend within themselves") {
    Generator rng(7);
    const Tensor x = randn({1, 7, 12}, rng);
    Context ctx{.documents = from_host<int64_t>({0, 0, 0, 5, 5, 5, 5}, {1, 7})};
    const NoGrad guard;
    const Pair pair({.embed_dim = 12, .num_heads = 3, .causal = true});
    for (const Ref<AttentionModule>& layer : {pair.fused, pair.steps}) {
      const Tensor y = layer(x, ctx);
      check_close(tokens(y, 0, 3), layer(tokens(x, 0, 3)), f32, 12, "first");
      check_close(tokens(y, 3, 7), layer(tokens(x, 3, 7)), f32, 12, "second");
    }
  }

  TEST_CASE("masks: true attends, floats are added, nothing to attend gives 0") {
    Generator rng(8);
    const Tensor x = randn({2, 3, 12}, rng);
    Context keep{.mask =
                     raw::cast(from_host<int64_t>({1, 0, 1, 0, 0, 0, 1, 1, 1}, {3, 3}), boolean)};
    Context added{.mask = raw::cast(
                      from_host<double>({0, kNone, 0, kNone, kNone, kNone, 0, 0, 0}, {3, 3}), f32)};
    const Pair pair({.embed_dim = 12, .num_heads = 3});
    for (const Ref<AttentionModule>& layer : {pair.fused, pair.steps}) {
      const Tensor y = layer(x, keep);
      check_close(layer(x, added), y, f32, 12, "added");
      const std::vector<float> values = to_host<float>(y);
      const std::vector<float> bias = to_host<float>(layer->parameter("out_proj.bias").tensor());
      for (int64_t i = 0; i < 12; ++i) CHECK(values[size_t(12 + i)] == bias[size_t(i)]);
      backward(y, {.gradient = ones_like(y)});
      for (const Tensor& p : layer->parameters()) CHECK(!raw::has_nonfinite(grad(p)));
    }
  }

  TEST_CASE("ALiBi takes the slope of each head times the distance off the scores") {
    Generator rng(8);
    const Tensor x = randn({2, 5, 12}, rng);
    const std::vector<std::pair<int64_t, std::vector<double>>> slopes{
        {4, {0.25, 0.0625, 0.015625, 0.00390625}}, {3, {0.0625, 0.00390625, 0.25}}};
    for (const auto& [heads, slope] : slopes) {
      std::vector<double> bias;
      for (const double s : slope)
        for (int i = 0; i < 5; ++i)
          for (int j = 0; j < 5; ++j) bias.push_back(-s * std::abs(i - j));
      const auto layer = MultiHeadAttentionwithALiBi(12, heads);
      const auto plain = MultiHeadAttention(12, heads, {.causal = true, .bias = false});
      const auto flash =
          FlashAttention(12, heads, {.causal = true, .bias = false, .use_alibi = true});
      init(layer);
      plain->load_state_dict(layer->state_dict());
      flash->load_state_dict(layer->state_dict());
      Context ctx{.mask = raw::cast(from_host(bias, {heads, 5, 5}), f32)};
      const Tensor wanted = plain(x, ctx);
      check_close(layer(x), wanted, f32, 12, "in steps");
      check_close(flash(x), wanted, f32, 12, "fused");
    }
  }

  TEST_CASE("a sink of the same score takes half of the weight") {
    const AttentionOptions o{
        .embed_dim = 2, .num_heads = 1, .bias = false, .use_attention_sink = true};
    const Tensor x = from_host<float>({2, 4}, {1, 1, 2});
    for (const Ref<AttentionModule>& layer : {FlashAttention(o), MultiHeadAttention(o)}) {
      init(layer);
      for (const char* key : {"q_proj.weight", "k_proj.weight"})
        layer->parameter(key).assign(zeros({2, 2}));
      for (const char* key : {"v_proj.weight", "out_proj.weight"})
        layer->parameter(key).assign(from_host<float>({1, 0, 0, 1}, {2, 2}));
      CHECK(to_host<float>(layer(x)) == std::vector<float>{1, 2});
    }
  }

  TEST_CASE("as many key heads as query heads is plain attention") {
    Generator rng(9);
    const Tensor x = randn({2, 5, 12}, rng);
    const auto grouped = GroupedQueryAttention({.embed_dim = 12,
                                                .num_heads = 3,
                                                .num_kv_heads = 3,
                                                .max_seq_len = 8,
                                                .use_bias = true,
                                                .qkv_bias = true});
    const auto plain = FlashAttentionwithRoPE(12, 3, 8, {.causal = true});
    init(grouped);
    plain->load_state_dict(grouped->state_dict());
    check_same_bits(grouped(x), plain(x), "grouped");
  }

  TEST_CASE("weights drop out while training alone") {
    Generator data(1);
    const Tensor x = randn({2, 6, 12}, data);
    const Pair pair({.embed_dim = 12, .num_heads = 3, .dropout = 0.5});
    for (const Ref<AttentionModule>& layer : {pair.fused, pair.steps}) {
      Generator first(3), second(3);
      Context one{.rng = &first}, two{.rng = &second};
      const Tensor y = layer(x, one);
      check_same_bits(y, layer(x, two), "same seed");
      CHECK(first.offset() > 0);
      CHECK(to_host<float>(y) != to_host<float>(layer(x)));
      check_same_bits(layer(x), layer(x), "inference");
    }
  }

  TEST_CASE("a replaced projection is called") {
    Generator rng(2);
    const Tensor x = randn({2, 5, 12}, rng);
    const auto layer = FlashAttention(12, 3);
    init(layer);
    const Tensor y = layer(x);
    *layer->k_proj = make<Wrapped>(layer->k_proj->module());
    CHECK(layer->k_proj->typed() == nullptr);
    check_close(layer(x), y, f32, 12, "wrapped");
    CHECK(layer->parameter("k_proj.inner.weight").filled());
  }

  TEST_CASE("bf16 activations meet f32 parameters, and every dtype of the context goes") {
    Generator rng(2);
    for (const Ref<Module>& layer : causal_layers()) {
      const Tensor y = layer(raw::cast(randn({2, 5, 12}, rng), bf16));
      CHECK(y.dtype() == bf16);
      backward(y, {.gradient = ones_like(y)});
      for (const Tensor& p : layer->parameters()) CHECK(grad(p).dtype() == f32);
      layer->to(f64);
      CHECK(layer(randn({2, 5, 12}, rng, {.dtype = f64})).dtype() == f64);
    }
  }

  TEST_CASE("what does not fit is refused") {
    constexpr int64_t kHuge = int64_t(1) << 62;
    check_error(
        [] { MultiHeadAttentionwithALiBi({.embed_dim = 8, .num_heads = kHuge, .head_dim = 1}); },
        {"MultiHeadAttentionwithALiBi", "at most", std::to_string(kHuge)});
    check_error([] { FlashAttention({.embed_dim = 8, .num_heads = 2, .head_dim = kHuge}); },
                {"FlashAttention", "head_dim", std::to_string(kHuge)});
    check_error([] { FlashAttention(12, 5); }, {"FlashAttention", "embed_dim 12", "num_heads 5"});
    check_error([] { MultiHeadAttention(12, 0); }, {"MultiHeadAttention", "num_heads 0"});
    check_error([] { FlashAttentionwithRoPE(9, 3, 8); }, {"RoPE", "even", "3"});
    check_error(
        [] {
          GroupedQueryAttention(
              {.embed_dim = 12, .num_heads = 6, .num_kv_heads = 4, .max_seq_len = 8});
        },
        {"GroupedQueryAttention", "num_heads 6", "num_kv_heads 4"});
    check_error([] { FlashAttention(12, 3, {.dropout = 3}); }, {"FlashAttention", "dropout"});
    check_error([] { FlashAttention(12, 3, {.window_size = 0}); },
                {"FlashAttention", "window_size", "0"});
    check_error([] { FlashAttention(12, 3, {.window_size = kHuge}); },
                {"FlashAttention", "window_size", "at most", std::to_string(kHuge)});
    check_error([] { FlashAttention(12, 3, {.attn_logit_softcap = -1}); },
                {"FlashAttention", "attn_logit_softcap", "-1"});
    check_error([] { FlashAttention(12, 3, {.attention_scale = 0}); },
                {"FlashAttention", "attention_scale"});
    check_error([] { FlashAttention(12, 3, {.head_dim = 4, .value_dim = 0}); },
                {"FlashAttention", "value_dim 0"});
    check_error([] { FlashAttention(12, 3, {.use_rope = true}); },
                {"FlashAttention", "RoPE", "max_seq_len"});
    check_error([] { FlashAttentionwithRoPE(12, 3, 8, {.partial_rotary_factor = 1.5}); },
                {"FlashAttentionwithRoPE", "partial_rotary_factor", "1.5"});
    const auto steps = MultiHeadAttention(12, 3);
    init(steps);
    Context integers{.mask = zeros({3, 3}, {.dtype = i64})};
    check_error([&] { steps(ones({1, 3, 12}), integers); }, {"MultiHeadAttention", "mask", "i64"});
    Context tall{.mask = zeros({4, 1, 3, 3})};
    check_error([&] { steps(ones({1, 3, 12}), tall); }, {"MultiHeadAttention", "[1,3,3,4]"});
    Context documents{.documents = zeros({3, 1}, {.dtype = i64})};
    check_error(
        [&] {
          steps(ones({1, 3, 12}), documents);
        },
        {"MultiHeadAttention", "documents", "[1,3]", "[3,1]"});
    const auto layer = FlashAttentionwithRoPE(12, 3, 4, {.causal = true});
    init(layer);
    check_error([&] { layer(ones({1, 5, 12})); }, {"FlashAttentionwithRoPE", "5", "4"});
    check_error([&] { layer(ones({1, 3, 11})); }, {"[B,T,12]", "[1,3,11]"});
    KVCache cache(8);
    Context ctx{.cache = &cache};
    check_error([&] { layer(ones({1, 2, 12}), ctx); }, {"KVCache", "NoGrad"});
  }
}
