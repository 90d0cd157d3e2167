#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/nn/norms.h>
#include <olm/nn/registry.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

TEST_SUITE("nn/norms") {
  TEST_CASE("values and gradients are OLM's") {
    check_layer_parity("LayerNorm", LayerNorm(6));
    check_layer_parity("LayerNorm.plain", LayerNorm(6, {.elementwise_affine = false}));
    check_layer_parity("RMSNorm", RMSNorm(6));
  }

  TEST_CASE("a norm of a sum is fused and gives the same") {
    Generator rng(5);
    const Tensor x = randn({2, 3, 8}, rng), delta = randn({2, 3, 8}, rng);
    for (const std::string& name : norms().names()) {
      INFO(name);
      const Ref<Module> norm = Norm(name, 8);
      init(*norm, {.seed = 2});
      Context ctx;
      ResidualStream in(x, delta);
      const Tensor y = norm(in, ctx).total();
      CHECK_FALSE(in.delta.defined());
      check_close(in.x, x + delta, f32, 1, "sum");
      check_close(y, norm(x + delta), f32, 8, "norm");
    }
  }

  TEST_CASE("any rank goes, and bf16 keeps f32 parameters") {
    const auto norm = LayerNorm(4);
    init(norm);
    CHECK(norm(ones({4})).shape() == Shape{4});
    CHECK(norm(raw::cast(ones({2, 4}), bf16)).dtype() == bf16);
    CHECK(norm->parameters().size() == 2);
    CHECK(LayerNorm(4, {.elementwise_affine = false})->parameters().empty());
  }

  TEST_CASE("what does not fit is refused") {
    check_error([] { RMSNorm(4, -1); }, {"RMSNorm", "eps", "-1"});
    check_error([] { LayerNorm(4, {.eps = -1}); }, {"LayerNorm", "eps", "-1"});
    const auto norm = LayerNorm(4);
    init(norm);
    check_error([&] { norm(ones({2, 5})); }, {"LayerNorm", "4", "[2,5]"});
    const auto rms = RMSNorm(4);
    init(rms);
    check_error([&] { rms(ones({2, 5})); }, {"[4]", "[2,5]"});
    check_error([] { RMSNorm(0); }, {"RMSNorm", "0"});
    check_error([] { norms().get("batch_norm"); }, {"batch_norm", "layer_norm", "rms_norm"});
  }
}
