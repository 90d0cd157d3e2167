// The balance of experts: losses, statistics, and biases that move the choice.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/engine/safetensors.h>
#include <olm/nn/moe.h>
#include <tests/support/checks.h>
#include <tests/support/fixture_errors.h>
#include <tests/support/parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

const std::string kFile = "moe.safetensors";

Tensor tokens_of(uint64_t seed, const Shape& shape) {
  Generator rng(seed);
  return randn(shape, rng);
}

/// Gates so that every token's scores are steered by its first elements.
void steer(Module& layer, const std::string& key, const std::vector<float>& rows, int64_t experts) {
  layer.parameter(key).assign(from_host<float>(rows, {experts, int64_t(rows.size()) / experts}));
}

}  // namespace

TEST_SUITE("nn/moe_balance") {
  TEST_CASE("balance losses are those of Mixtral and Switch Transformers") {
    const SafetensorsFile file = SafetensorsFile::open(fixture(kFile));
    const auto check = [&](const std::string& name, double scale, const auto& loss_of) {
      const Tensor logits = raw::clone(file.tensor(name + "/x"));
      set_requires_grad(logits);
      const Tensor loss = loss_of(logits) * scale;
      const Compared y = check_close(loss, file.tensor(name + "/y"), f32, 32, name);
      backward(loss);
      const Compared dx =
          check_close(grad(logits), file.tensor(name + "/dx"), f32, 32, name + " gradient", 1e-3);
      record_fixture({kFile, name}, FixturePart::output, y.error, y.tolerance);
      record_fixture({kFile, name}, FixturePart::gradient, dx.error, dx.tolerance);
    };
    for (const int64_t top_k : {1, 2, 3})
      check("load_balancing_loss." + std::to_string(top_k), double(top_k),
            [&](const Tensor& logits) {
              const MoERouting routing = moe_route(logits, {.top_k = top_k});
              return load_balancing_loss(routing, moe_sort(routing.experts, 5));
            });
    check("router_z_loss", 1, router_z_loss);
  }

  TEST_CASE("a token without any score leaves the balance loss finite, and the others' as it is") {
    const Tensor logits = from_host<float>({-200, -200, -200, 1, 0, -1}, {2, 3});
    set_requires_grad(logits);
    const MoERouting routing = moe_route(logits, {.top_k = 1, .scoring = MoEScoring::sigmoid});
    const Tensor loss = load_balancing_loss(routing, moe_sort(routing.experts, 3));
    // Both choose the first expert: f = (1, 0, 0), p_0 = (0 + s_0 / Σ s) / 2.
    const auto s = [](double v) { return 1 / (1 + std::exp(-v)); };
    CHECK(loss.item<double>() == doctest::Approx(1.5 * s(1) / (s(1) + s(0) + s(-1))));
    backward(loss);
    for (const float g : to_host<float>(grad(logits))) CHECK(std::isfinite(g));
  }

  TEST_CASE("aux losses are added while training alone, and say what they are") {
    const auto layer =
        SwiGLUMoEFFN({.embed_dim = 4,
                      .num_experts = 4,
                      .routing = {.load_balancing_coefficient = 0.5, .z_loss_coefficient = 0.25}});
    init(layer, {.seed = 1});
    steer(*layer, "router.gate.weight", std::vector<float>(16, 0), 4);
    const Tensor x = tokens_of(1, {2, 3, 4});
    Metrics metrics;
    Context inference{.metrics = &metrics};
    layer(x, inference);
    CHECK(inference.aux_losses.empty());
    REQUIRE(metrics.routing.size() == 1);
    CHECK(metrics.routing[0].aux_losses.empty());
    Generator rng(1);
    Context training{.rng = &rng, .metrics = &metrics};
    layer(x, training);
    REQUIRE(training.aux_losses.size() == 2);
    // All scores are 1/4: E · Σ f · p is 1 whatever the choice, and logsumexp is ln 4.
    CHECK(training.aux_losses[0].item<double>() == doctest::Approx(0.5));
    CHECK(training.aux_losses[1].item<double>() ==
          doctest::Approx(0.25 * std::log(4.0) * std::log(4.0)));
    const std::vector<ExpertLoad> loads = expert_loads(*layer, metrics);
    REQUIRE(loads.size() == 1);
    CHECK(loads[0].router == "router");
    CHECK(loads[0].tokens == std::vector<int64_t>{12, 12, 0, 0});  // ties: the first ones
    CHECK(loads[0].idle_experts() == 2);
    CHECK(loads[0].entropy() == doctest::Approx(0.5));
    CHECK(loads[0].imbalance() == doctest::Approx(2));
    Context empty{.rng = &rng};
    layer(zeros({0, 4}), empty);
    CHECK(empty.aux_losses.empty());
  }

  TEST_CASE(
      "an expert bias moves the choice, not the weights, towards the experts that lack tokens") {
    const auto router = MoERouter(
        2, 4, {.top_k = 1, .routing = {.use_expert_bias = true, .bias_update_rate = 0.125}});
    init(router);
    steer(*router, "gate.weight", {3, 0, 2, 0, 1, 0, 0, 0}, 4);
    const Tensor x = from_host<float>({1, 0, 1, 0, 1, 0, -1, 0}, {4, 2});  // 0, 0, 0 and 3
    Metrics metrics;
    Context ctx{.metrics = &metrics};
    const Tensor plain = router(x, ctx);
    update_expert_biases(*router, metrics);
    CHECK(to_host<float>(*router->expert_bias) == std::vector<float>{-0.125, 0.125, 0.125, 0});
    CHECK(expert_loads(*router, metrics)[0].tokens == std::vector<int64_t>{3, 0, 0, 1});
    // Several passes of a step count together.
    router(x, ctx);
    update_expert_biases(*router, metrics);
    CHECK(to_host<float>(*router->expert_bias)[0] == -0.25);
    router->freeze();
    update_expert_biases(*router, metrics);
    CHECK(to_host<float>(*router->expert_bias)[0] == -0.25);
    router->expert_bias->assign(from_host<float>({-9, 0, 0, 0}, {4}));
    const std::vector<float> moved = to_host<float>(router(x)), before = to_host<float>(plain);
    CHECK(before[0] == doctest::Approx(1));
    CHECK(moved[0] == 0);
    CHECK(moved[1] == doctest::Approx(1));
  }
}
