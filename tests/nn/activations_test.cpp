#include <doctest/doctest.h>

#include <olm/nn/activations.h>
#include <olm/nn/registry.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {
const std::string kFile = "activations.safetensors";
}  // namespace

TEST_SUITE("nn/activations") {
  TEST_CASE("values and gradients are OLM's, but of those that it lacks") {
    for (const std::string& name : activations().names()) {
      if (name == "geglu_tanh") continue;
      check_layer_parity("activation." + name, activations().get(name)(), kFile);
      if (name == "gelu_tanh" || name == "quick_gelu" || name == "relu_squared") continue;
      check_layer_parity("activation." + name, activations().get(name)());
    }
    check_layer_parity("PReLU.channels", PReLU(3));
    check_layer_parity("GLU.dim1", GLU(1));
  }

  TEST_CASE("options and several slopes are OLM's too") {
    check_layer_parity("LeakyReLU.slope", LeakyReLU(0.2), kFile);
    check_layer_parity("ELU.alpha", ELU(0.7), kFile);
    check_layer_parity("Softplus.beta", Softplus(2, 5), kFile);
    check_layer_parity("Softmax.dim", Softmax(1), kFile);
    check_layer_parity("GLU.dim", GLU(0), kFile);
    check_layer_parity("PReLU.channels", PReLU(3), kFile);
    check_layer_parity("PReLU.features", PReLU(4), kFile);
  }

  TEST_CASE("makers take options by name, and refuse others") {
    const Json slope = Json::parse(R"({"negative_slope": 0.2})");
    CHECK(activations().get("leaky_relu")(slope)->options_json() == slope);
    check_error([&] { activations().get("elu")(slope); }, {"ELU", "negative_slope", "alpha"});
  }

  TEST_CASE("those that OLM lacks follow their formulas") {
    const Tensor x = from_host<double>({-1.5, 2}, {2});
    const std::vector<double> tanh_form = to_host<double>(GELUTanh()(x));
    CHECK(tanh_form[0] == doctest::Approx(-0.10042842).epsilon(1e-6));
    CHECK(tanh_form[1] == doctest::Approx(1.954597694).epsilon(1e-6));
    CHECK(to_host<double>(ReLUSquared()(x)) == std::vector<double>{0, 4});
    CHECK(to_host<double>(QuickGELU()(x))[1] == doctest::Approx(1.93565862).epsilon(1e-6));
    CHECK(to_host<double>(GeGLUTanh()(x))[0] == doctest::Approx(-1.5 * tanh_form[1]));
    check_error([] { GeGLUTanh()(ones({3})); }, {"geglu_tanh", "even", "[3]"});
  }

  TEST_CASE("each keeps its dtype, halves where gated, and can be rebuilt by name") {
    Generator rng(1);
    const Tensor x = raw::cast(randn({2, 6}, rng), bf16);
    for (const std::string& name : activations().names()) {
      INFO(name);
      const Ref<Module> act = activations().get(name)();
      init(*act);
      const Tensor y = act(x);
      CHECK(y.dtype() == bf16);
      CHECK(y.shape() == Shape{2, dynamic_cast<ActivationBase&>(*act).gated() ? 3 : 6});
      const Ref<Module> again = layers().get(act->type_name())(act->options_json(), {});
      CHECK(again->type_name() == act->type_name());
      CHECK(again->options_json() == act->options_json());
    }
  }

  TEST_CASE("what linear fuses goes by the same names") {
    for (const Activation a : kActivations) {
      CHECK(parse_activation(name_of(a), "here") == a);
      if (a == Activation::none) continue;
      const Ref<Module> module = activations().get(name_of(a))();
      CHECK(dynamic_cast<ActivationBase&>(*module).fused() == a);
    }
    check_error([] { parse_activation("gleu", "here"); }, {"here", "gleu", "none, relu, gelu,"});
  }

  TEST_CASE("what does not fit is refused") {
    for (const char* name : {"swiglu", "geglu", "reglu", "liglu", "glu"})
      check_error([&] { activations().get(name)()(ones({2, 5})); }, {name, "[2,5]"});
    const auto prelu = PReLU(3);
    init(prelu);
    check_error([&] { prelu(ones({2, 4})); }, {"PReLU", "3", "[2,4]"});
    check_error([] { activations().get("gleu"); }, {"gleu", "gelu", "swish"});
    check_error([] { layers().get("ReLU")(Json::parse(R"({"a":1})"), {}); }, {"ReLU", "a"});
  }
}
