#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/nn/activations.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

const std::string kFile = "activations.safetensors";

/// A map that is no Linear, so that nothing is fused with it.
class Doubled final : public Module {
 public:
  explicit Doubled(Ref<Module> inner) : inner(this, "inner", std::move(inner)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return inner(x, ctx) * 2; }
  std::string type_name() const override { return "Doubled"; }
  Child<> inner;
};

}  // namespace

TEST_SUITE("nn/feedforward") {
  TEST_CASE("values and gradients are OLM's") {
    check_layer_parity("Linear", Linear(6, 4));
    check_layer_parity("ClassicFFN", ClassicFFN(6));
    check_layer_parity("ClassicFFN.prelu", ClassicFFN(6, {.hidden_dim = 9, .activation = "prelu"}));
    check_layer_parity("ClassicFFN.relu", ClassicFFN(6, {.activation = "relu", .bias = false}));
    check_layer_parity("SwiGLUFFN", SwiGLUFFN(6));
    check_layer_parity("GeGLUFFN", GeGLUFFN(6));
  }

  TEST_CASE("ClassicFFN takes every activation of the registry that keeps the width") {
    int taken = 0;
    for (const std::string& name : activations().names()) {
      const Ref<Module> act = activations().get(name)();
      const auto* known = dynamic_cast<const ActivationBase*>(act.get());
      if (!known || known->gated()) continue;  // other tests may have added theirs
      check_layer_parity("ClassicFFN." + name, ClassicFFN(6, {.hidden_dim = 9, .activation = name}),
                         kFile);
      ++taken;
    }
    CHECK(taken >= 17);
  }

  TEST_CASE("ClassicFFN takes an activation with options") {
    // A slope for each index of axis 1: of tokens in [B,T,D], of features in [N,D].
    check_layer_parity("ClassicFFN.prelu_tokens",
                       ClassicFFN(6, {.hidden_dim = 9, .activation_fn = PReLU(5)}), kFile);
    check_layer_parity("ClassicFFN.prelu_features",
                       ClassicFFN(6, {.hidden_dim = 9, .activation_fn = PReLU(9)}), kFile);
    const auto leaky = ClassicFFN(6, {.bias = false, .activation_fn = LeakyReLU(0.2)});
    check_layer_parity("ClassicFFN.leaky_slope", leaky, kFile);
    const Ref<Module> again = build(describe(*leaky));
    CHECK(describe(*again) == describe(*leaky));
    CHECK(again->get("act")->options_json().at("negative_slope") == Json(0.2));
  }

  TEST_CASE("an activation given to two networks shares its parameters") {
    const auto slope = PReLU();
    const auto model =
        Block({ClassicFFN(4, {.activation_fn = slope}), ClassicFFN(4, {.activation_fn = slope})});
    init(model, {.seed = 1});
    CHECK(model->parameters().size() == 9);
    CHECK(model->parameter("blocks.1.act.act.weight")
              .is_tied_to(model->parameter("blocks.0.act.act.weight")));
  }

  TEST_CASE("GatedFFN takes every gated unit") {
    for (const char* unit : {"swiglu", "geglu", "reglu", "liglu", "glu"})
      check_layer_parity(std::string("GatedFFN.") + unit,
                         GatedFFN(6, {.hidden_dim = 9, .gated_unit = unit}), kFile);
    check_layer_parity("SwiGLUFFN", SwiGLUFFN(6, {.hidden_dim = 9, .bias = false}), kFile);
    check_layer_parity("GeGLUFFN", GeGLUFFN(6, {.hidden_dim = 9}), kFile);
  }

  TEST_CASE("a gated network is described by its name or its unit, and rebuilt from either") {
    CHECK(GatedFFN(6, {.gated_unit = "geglu"})->type_name() == "GeGLUFFN");
    CHECK_FALSE(SwiGLUFFN(6)->options_json().contains("gated_unit"));
    for (const char* unit : {"swiglu", "geglu", "reglu", "liglu", "glu"}) {
      const auto ffn = GatedFFN(6, {.ff_multiplier = 2, .gated_unit = unit});
      const Json described = describe(*ffn);
      INFO(described.dump());
      CHECK(described.contains("children") == false);
      CHECK(describe(*build(described)) == described);
    }
    check_error([] { feed_forwards().get("SwiGLUFFN")(Json::parse(R"({"gated_unit":"glu"})")); },
                {"SwiGLUFFN", "unknown key", "gated_unit"});
  }

  TEST_CASE("widths by default and by choice") {
    CHECK(ClassicFFN(6)->parameter("up_proj.weight").shape() == Shape{24, 6});
    CHECK(SwiGLUFFN(5)->parameter("up_proj.weight").shape() == Shape{24, 5});
    CHECK(GeGLUFFN(6)->parameter("down_proj.weight").shape() == Shape{6, 15});
    CHECK(SwiGLUFFN(6, {.hidden_dim = 7, .bias = false})->num_parameters() == 6 * 7 * 3);
  }

  TEST_CASE("every activation that keeps the width goes into ClassicFFN, fused or not") {
    Generator rng(4);
    const Tensor x = randn({2, 3, 6}, rng);
    for (const char* name :
         {"gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "mish", "elu"}) {
      INFO(name);
      const auto fused = ClassicFFN(6, {.activation = name});
      init(fused, {.seed = 3});
      const Tensor y = fused(x);
      fused->up_proj.replace(make<Doubled>(fused->up_proj.module()));
      const Tensor w = raw::clone(fused->parameter("up_proj.inner.weight").tensor());
      const Tensor b = raw::clone(fused->parameter("up_proj.inner.bias").tensor());
      raw::scale_(w, 0.5);
      raw::scale_(b, 0.5);
      fused->parameter("up_proj.inner.weight").assign(w);
      fused->parameter("up_proj.inner.bias").assign(b);
      check_close(fused(x), y, f32, 24, "with the projection replaced");
    }
  }

  TEST_CASE("dropout acts on the result while training, and the same seed gives the same") {
    const auto ffn = SwiGLUFFN(16, {.dropout = 0.5});
    init(ffn);
    Generator data(1), first(9), second(9);
    const Tensor x = randn({4, 16, 16}, data);
    Context one{.rng = &first}, two{.rng = &second};
    const Tensor y = ffn(x, one);
    check_same_bits(y, ffn(x, two), "dropout");
    int64_t zeros = 0;
    for (const float v : to_host<float>(y)) zeros += v == 0;
    CHECK(zeros > 400);
    CHECK(zeros < 624);
    for (const float v : to_host<float>(ffn(x))) CHECK(v != 0);
    const auto dropout = Dropout(1);
    CHECK(to_host<float>(dropout(ones({3}), one)) == std::vector<float>{0, 0, 0});
    CHECK(to_host<float>(dropout(ones({3}))) == std::vector<float>{1, 1, 1});
  }

  TEST_CASE("bf16 activations meet f32 parameters") {
    const auto ffn = SwiGLUFFN(8);
    init(ffn);
    Generator rng(2);
    const Tensor x = raw::cast(randn({2, 3, 8}, rng), bf16);
    const Tensor y = ffn(x);
    CHECK(y.dtype() == bf16);
    backward(y, {.gradient = ones_like(y)});
    for (const Tensor& p : ffn->parameters()) CHECK(grad(p).dtype() == f32);
  }

  TEST_CASE("what does not fit is refused") {
    const auto ffn = SwiGLUFFN(8);
    init(ffn);
    check_error([&] { ffn(ones({2, 3, 7})); }, {"linear", "[2,3,7]"});
    check_error([] { SwiGLUFFN(0); }, {"SwiGLUFFN", "embed_dim"});
    check_error([] { GeGLUFFN(4, {.hidden_dim = 0}); }, {"GeGLUFFN", "hidden_dim 0"});
    check_error([] { ClassicFFN(4, {.activation = "gelo"}); }, {"gelo", "gelu"});
    check_error([] { ClassicFFN(4, {.activation = "glu"}); }, {"ClassicFFN", "GLU", "GatedFFN"});
    check_error([] { ClassicFFN(4, {.activation_fn = ReGLU()}); }, {"ClassicFFN", "ReGLU"});
    check_error([] { GatedFFN(4, {.gated_unit = "gelu"}); }, {"GatedFFN", "GELU", "ClassicFFN"});
    check_error([] { GatedFFN(4, {.gated_unit = "swigu"}); }, {"swigu", "swiglu"});
    check_error([] { GatedFFN(0, {.gated_unit = "glu"}); }, {"GatedFFN", "embed_dim 0"});
    check_error([] { ClassicFFN(4, {.dropout = -1}); }, {"ClassicFFN", "-1"});
    for (const int64_t huge : {int64_t(1) << 62, INT64_MAX}) {
      check_error([=] { ClassicFFN(huge); }, {"ClassicFFN", "at most", std::to_string(huge)});
      check_error([=] { SwiGLUFFN(4, {.hidden_dim = huge}); }, {"SwiGLUFFN", "at most"});
      check_error([=] { GeGLUFFN(huge); }, {"GeGLUFFN", "at most", std::to_string(huge)});
    }
    check_error([] { Linear(0, 3); }, {"Linear", "0"});
    check_error([] { Dropout(1.5); }, {"Dropout", "1.5"});
  }
}
