// Mixtures of experts on input at the edges: shapes, values, experts without tokens, threads.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/select.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/decoder.h>
#include <olm/nn/moe.h>
#include <olm/nn/training.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 11;

Tensor tokens_of(uint64_t seed, const Shape& shape) {
  Generator rng(seed);
  return randn(shape, rng);
}

using State = std::map<std::string, Tensor>;
State copy_of(Module& module) {
  State state;
  for (const auto& [key, tensor] : module.state_dict()) state[key] = raw::clone(tensor);
  return state;
}

/// Weights after some steps of training, in batches of an odd number of tokens.
State trained(const DecoderConfig& config, DType dtype) {
  const auto model = DecoderModel(config);
  init_decoder(*model, config, {.seed = 1});
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < 3000; ++i) ids.push_back(int32_t((i * i + i / 3) % kVocab));
  AdamW optimizer(decay_groups(model->parameters(), 0.1), {.lr = 1e-2, .clip_norm = 1});
  TrainerOptions options{.total_steps = 3, .accumulation = 2, .dtype = dtype, .seed = 3};
  options.schedule = {.kind = "constant", .lr = 1e-2};
  Trainer(
      model, optimizer,
      Loader(TokenDataset::from_ids(ids, int32_t(kVocab)), {.batch = 5, .context = 29, .seed = 5}),
      {}, options)
      .run();
  return copy_of(*model);
}

Ref<SwiGLUMoEFFNModule> mixture(const SwiGLUMoEFFNOptions& options) {
  const auto layer = SwiGLUMoEFFN(options);
  init(layer, {.seed = 1});
  return layer;
}

/// Sets gradients as training on `x` would.
void pass_back(const Ref<SwiGLUMoEFFNModule>& layer, const Tensor& x) {
  const Tensor y = layer(x);
  backward(y, {.gradient = ones_like(y)});
}

/// Whether expert `e` has gradients: of all its parameters, or of none.
bool has_gradients(Module& layer, int64_t e) {
  const Ref<Module> expert = layer.get("experts." + std::to_string(e));
  int64_t with = 0, all = 0;
  for (const Tensor& p : expert->parameters()) {
    with += grad(p).defined();
    ++all;
  }
  REQUIRE((with == 0 || with == all));
  return with > 0;
}

}  // namespace

TEST_SUITE("nn/moe_robustness") {
  TEST_CASE("whole training steps have the same bits for any number of threads") {
    DecoderConfig mixtral{.family = "mixtral"}, deepseek{.family = "deepseek_v3"};
    for (DecoderConfig* c : {&mixtral, &deepseek}) {
      c->vocab_size = kVocab;
      c->embed_dim = 24;
      c->num_heads = 2;
      c->num_layers = 2;
      c->max_seq_len = 29;
      c->num_experts = 7;
      c->moe_intermediate_size = 20;
      c->load_balancing_coefficient = 0.1;
      c->z_loss_coefficient = 0.1;
    }
    mixtral.top_k = 3;
    deepseek.bias_update_rate = 0.1;
    const int before = num_threads();
    for (const DecoderConfig* config : {&mixtral, &deepseek})
      for (const DType dtype : {f32, bf16}) {
        State first;
        for (const int threads : {1, 2, 3, 4}) {
          set_threads(threads);
          const State state = trained(*config, dtype);
          if (first.empty()) first = state;
          for (const auto& [key, value] : state) check_same_bits(value, first.at(key), key);
        }
      }
    set_threads(before);
  }

  TEST_CASE("an expert without tokens is not moved by a step, nor decayed") {
    const auto layer = mixture({.embed_dim = 8, .num_experts = 6, .top_k = 1, .hidden_dim = 4});
    // The first feature decides: experts 0 and 1 take tokens where it is positive, or negative.
    std::vector<float> gate(6 * 8, 0);
    gate[0] = 9, gate[8] = -9;
    layer->parameter("router.gate.weight").assign(from_host<float>(gate, {6, 8}));
    const auto rows = [](float first) {
      std::vector<float> values = to_host<float>(tokens_of(2, {5, 8}));
      for (size_t i = 0; i < values.size(); i += 8) values[i] = first;
      return from_host<float>(values, {5, 8});
    };
    AdamW optimizer(layer->parameters(), {.lr = 0.1, .weight_decay = 0.5, .clip_norm = 1});
    State before = copy_of(*layer);
    const auto check_moved = [&](int64_t used) {
      const State after = copy_of(*layer);
      for (int64_t e = 0; e < 6; ++e)
        for (const auto& [key, value] : after) {
          if (!key.starts_with("experts." + std::to_string(e))) continue;
          INFO(key);
          const bool same = to_host<float>(value) == to_host<float>(before.at(key));
          CHECK(same == (e != used));
        }
      before = after;
    };
    pass_back(layer, rows(1));
    CHECK(has_gradients(*layer, 0));
    for (const int64_t e : {1, 2, 3, 4, 5}) CHECK_FALSE(has_gradients(*layer, e));
    optimizer.step();
    check_moved(0);
    // Moments of an expert that had tokens do not move it either.
    pass_back(layer, rows(-1));
    CHECK_FALSE(has_gradients(*layer, 0));
    optimizer.step();
    check_moved(1);
  }

  TEST_CASE("more experts than choices, and as many choices as experts") {
    const auto many = mixture({.embed_dim = 8, .num_experts = 50, .top_k = 2, .hidden_dim = 4});
    const Tensor one = tokens_of(1, {1, 8});
    pass_back(many, one);
    int64_t used = 0;
    for (int64_t e = 0; e < 50; ++e) used += has_gradients(*many, e);
    CHECK(used == 2);
    // Every expert takes every token: the weights are the scores.
    const auto all = mixture({.embed_dim = 8, .num_experts = 5, .top_k = 5, .hidden_dim = 4});
    const Tensor x = tokens_of(2, {7, 8});
    Tensor wanted = zeros({7, 8});
    const Tensor weights = (*all->router.typed())(x);
    for (const double total : to_host<double>(sum(weights, -1))) CHECK(total == doctest::Approx(1));
    for (int64_t e = 0; e < 5; ++e) {
      wanted = wanted + all->get("experts." + std::to_string(e))(x) * slice(weights, 1, e, e + 1);
    }
    check_close(all(x), wanted, f32, 32, "top_k = E");
  }

  TEST_CASE("NaN and infinity go through to their own tokens alone") {
    for (const char* scoring : {"softmax", "sigmoid"})
      for (const float bad : {NAN, INFINITY, -INFINITY})
        for (const int64_t groups : {1, 2}) {
          INFO(scoring, " ", bad, " ", groups);
          const auto layer =
              mixture({.embed_dim = 8,
                       .num_experts = 6,
                       .num_shared_experts = 1,
                       .hidden_dim = 4,
                       .routing = {.scoring_func = scoring, .n_group = groups, .topk_group = 1}});
          const Tensor good = tokens_of(3, {4, 8}), x = raw::clone(good);
          for (int64_t i = 8; i < 16; ++i) x.mutable_data<float>()[i] = bad;
          set_requires_grad(x);
          const Tensor y = layer(x);
          const std::vector<float> got = to_host<float>(y), wanted = to_host<float>(layer(good));
          for (size_t i = 0; i < got.size(); ++i) {
            if (i / 8 == 1)
              CHECK(std::isnan(got[i]));
            else
              CHECK(got[i] == doctest::Approx(wanted[i]).epsilon(1e-5));
          }
          backward(y, {.gradient = ones_like(y)});
          const std::vector<float> dx = to_host<float>(grad(x));
          for (size_t i = 0; i < dx.size(); ++i)
            if (i / 8 != 1) CHECK(std::isfinite(dx[i]));
        }
  }

  TEST_CASE("an infinite bias takes an expert always, or never where there are others") {
    const auto router =
        MoERouter(4, 4, {.top_k = 2, .routing = {.use_expert_bias = true, .bias_update_rate = 1}});
    init(router, {.seed = 1});
    router->expert_bias->assign(from_host<float>({-INFINITY, 0, INFINITY, 0}, {4}));
    Metrics metrics;
    Context ctx{.metrics = &metrics};
    const Tensor x = tokens_of(1, {9, 4});
    for (const float w : to_host<float>(router(x, ctx))) CHECK(std::isfinite(w));
    const std::vector<int64_t> tokens = expert_loads(*router, metrics)[0].tokens;
    CHECK(tokens[0] == 0);
    CHECK(tokens[2] == 9);
    CHECK(tokens[1] + tokens[3] == 9);
    update_expert_biases(*router, metrics);
    const std::vector<float> bias = to_host<float>(*router->expert_bias);
    CHECK(bias[0] == -INFINITY);
    CHECK(bias[2] == INFINITY);
    CHECK((std::isfinite(bias[1]) && std::isfinite(bias[3])));
    router->expert_bias->assign(full({4}, NAN));
    CHECK(router(x).shape() == Shape{9, 4});
  }

  TEST_CASE("no tokens give no result and no gradient") {
    for (const int64_t shared : {0, 1}) {
      const auto layer =
          mixture({.embed_dim = 8,
                   .num_experts = 4,
                   .num_shared_experts = shared,
                   .hidden_dim = 4,
                   .routing = {.load_balancing_coefficient = 1, .z_loss_coefficient = 1}});
      Generator rng(1);
      Metrics metrics;
      Context ctx{.rng = &rng, .metrics = &metrics};
      const Tensor x = zeros({2, 0, 8});
      set_requires_grad(x);
      const Tensor y = layer(x, ctx);
      CHECK(y.shape() == Shape{2, 0, 8});
      CHECK(ctx.aux_losses.empty());
      CHECK(expert_loads(*layer, metrics).empty());
      backward(sum(y));
      for (int64_t e = 0; e < 4; ++e) CHECK_FALSE(has_gradients(*layer, e));
      CHECK(grad(x).shape() == x.shape());
    }
  }

  TEST_CASE("a whole training step runs on meta") {
    const auto layer = SwiGLUMoEFFN(
        {.embed_dim = 8,
         .num_experts = 4,
         .num_shared_experts = 1,
         .routing = {
             .load_balancing_coefficient = 1, .z_loss_coefficient = 1, .use_expert_bias = true}});
    init(layer, {.device = meta});
    Generator rng(1);
    Metrics metrics;
    Context ctx{.rng = &rng, .metrics = &metrics};
    const Tensor y = layer(empty({3, 5, 8}, {.device = meta}), ctx);
    Tensor loss = sum(y);
    CHECK(ctx.aux_losses.size() == 2);
    for (const Tensor& aux : ctx.aux_losses) loss = loss + aux;
    backward(loss);
    for (const Tensor& p : layer->parameters()) CHECK(grad(p).shape() == p.shape());
    CHECK(metrics.routing.empty());
  }
}
