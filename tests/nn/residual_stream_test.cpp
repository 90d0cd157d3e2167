// Layers of one's own among structures that fuse: whoever overrides forward is asked for it.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cross_entropy.h>
#include <olm/autograd/ops/norm.h>
#include <olm/nn/blocks.h>
#include <olm/nn/linear.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kWidth = 4;

/// A norm that can be derived from, with a forward_residual that goes with its forward.
class OpenNorm : public Module {
 public:
  Tensor forward(const Tensor& x, Context&) override { return rms_norm(x, weight); }
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override {
    ++fused;
    return OpenNorm::forward(in.total(), ctx);
  }
  std::string type_name() const override { return "OpenNorm"; }
  int fused = 0;
  Parameter weight{this, "weight", {kWidth}, init::ones};
};

/// Base with another forward: three times that of the base, counted.
template <class Base>
class Tripled : public Base {
 public:
  using Base::Base;
  Tensor forward(const Tensor& x, Context& ctx) override {
    ++calls;
    return Base::forward(x, ctx) * 3;
  }
  int calls = 0;
};
/// The same where it cannot be seen from outside.
class HiddenForward : public BlockModule {
 public:
  using BlockModule::BlockModule;
  int calls = 0;

 protected:
  Tensor forward(const Tensor& x, Context& ctx) override {
    ++calls;
    return BlockModule::forward(x, ctx) * 3;
  }
};
/// The same with a second function of the name.
class TwoForwards : public BlockModule {
 public:
  using BlockModule::BlockModule;
  Tensor forward(const Tensor& x) { return x; }
  Tensor forward(const Tensor& x, Context& ctx) override {
    ++calls;
    return BlockModule::forward(x, ctx) * 3;
  }
  int calls = 0;
};
/// A block with both functions of its own.
class Fusing : public BlockModule {
 public:
  using BlockModule::BlockModule;
  Tensor forward(const Tensor& x, Context& ctx) override {
    ++calls;
    return BlockModule::forward(x, ctx) * 2;
  }
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall call) override {
    ++fused;
    return BlockModule::forward_residual(in, ctx, call).total() * 2;
  }
  int calls = 0, fused = 0;
};
/// A block that only fills itself.
class Filled : public BlockModule {
 public:
  Filled(Ref<Module> a, Ref<Module> b) : BlockModule({std::move(a), std::move(b)}) {}
};

/// What a module computes, as a layer that nothing fuses with.
class Plain final : public Module {
 public:
  explicit Plain(Ref<Module> inner) : inner(this, "inner", std::move(inner)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return inner->forward(x, ctx); }
  std::string type_name() const override { return "Plain"; }
  Child<> inner;
};

std::vector<Ref<Module>> one_linear() { return {Linear(kWidth, kWidth)}; }

/// Structures around a layer, each of which runs it once.
std::vector<std::pair<const char*, Ref<Module>>> around(const Ref<Module>& layer) {
  const auto first = [] { return Residual(Linear(kWidth, kWidth)); };
  return {{"Block", Block({layer})},
          {"Block, first", Block({layer, Linear(kWidth, kWidth)})},
          {"Block, after a Residual", Block({first(), layer})},
          {"Block in Block", Block({first(), Block({layer})})},
          {"Repeat", Repeat([&] { return layer; }, 1)},
          {"Repeat, after a Residual", Block({first(), Repeat([&] { return layer; }, 1)})},
          {"Residual", Residual(layer)},
          {"Residual, after a Residual", Block({first(), Residual(layer)})},
          {"Residual of a Block", Block({first(), Residual(Block({layer}))})},
          {"Recompute", Recompute(layer)},
          {"Recompute, after a Residual", Block({first(), Recompute(layer)})},
          {"Parallel", Parallel({layer})}};
}

/// `make_layer` gives a layer that counts its calls.
template <class Make>
void check_is_called(const char* name, Make make_layer) {
  Generator rng(3);
  const Tensor x = randn({2, 3, kWidth}, rng);
  const Tensor targets = from_host<int64_t>({0, 1, 2, 3, -100, 1}, {2, 3});
  const auto counting = make_layer();
  const auto fused = around(counting), plain = around(make<Plain>(make_layer()));
  for (size_t i = 0; i < fused.size(); ++i) {
    INFO(name, " in ", fused[i].first);
    const Ref<Module> model = fused[i].second, wanted = plain[i].second;
    init(*model, {.seed = 1});
    const Tensors values = model->parameters(), same = wanted->parameters();
    REQUIRE(values.size() == same.size());
    size_t at = 0;
    wanted->for_each_parameter(
        [&](const std::string&, Parameter& p) { p.assign(raw::clone(values[at++])); });
    counting->calls = 0;
    check_close(model(x), wanted(x), f32, 8, "forward");
    CHECK(counting->calls == 1);
    counting->calls = 0;
    Context ctx;
    check_close(model->loss(x, targets, ctx), cross_entropy(wanted(x), targets), f32, 8, "loss");
    CHECK(counting->calls == 1);
  }
}

}  // namespace

TEST_SUITE("nn/residual_stream") {
  TEST_CASE("a class that overrides forward alone is called by every structure and by loss") {
    check_is_called("a Block", [] { return make<Tripled<BlockModule>>(one_linear()); });
    check_is_called("a norm", [] { return make<Tripled<OpenNorm>>(); });
    check_is_called("a fusing block", [] { return make<Tripled<Fusing>>(one_linear()); });
    check_is_called("a block twice",
                    [] { return make<Tripled<Tripled<BlockModule>>>(one_linear()); });
    check_is_called("not made by make", [] {
      return Ref<Tripled<BlockModule>>(std::make_shared<Tripled<BlockModule>>(one_linear()));
    });
    check_is_called("hidden", [] { return make<HiddenForward>(one_linear()); });
    check_is_called("two forwards", [] { return make<TwoForwards>(one_linear()); });
  }

  TEST_CASE("a class that overrides both, or none, fuses, and its loss follows its forward") {
    Generator rng(3);
    const Tensor x = randn({2, kWidth}, rng);
    const Tensor targets = from_host<int64_t>({0, 3}, {2});
    const auto norm = make<OpenNorm>();
    const auto fusing = make<Fusing>(one_linear());
    const auto model = Block({make<Filled>(Residual(Linear(kWidth, kWidth)), norm), fusing});
    init(model, {.seed = 1});
    const Tensor y = model(x);
    CHECK(norm->fused == 1);
    CHECK(fusing->fused == 1);
    CHECK(fusing->calls == 0);
    Context ctx;
    check_close(model->loss(x, targets, ctx), cross_entropy(y, targets), f32, 8, "loss");
    CHECK(fusing->calls == 1);
  }

  TEST_CASE("a stream is added once, and whoever takes the sum leaves it") {
    const Tensor x = full({2}, 1), delta = full({2}, 2);
    ResidualStream stream(x, delta);
    const Tensor sum = stream.total();
    CHECK(to_host<float>(sum) == std::vector<float>{3, 3});
    CHECK(stream.total().is_same(sum));
    CHECK_FALSE(stream.delta.defined());
    Context ctx;
    ResidualStream in(x, delta);
    const ResidualStream out = Block({})(in, ctx);
    CHECK(out.x.is_same(x));
    CHECK(out.delta.is_same(delta));
    CHECK(to_host<float>(Residual(Block({}))(x)) == std::vector<float>{2, 2});
  }

  TEST_CASE("losses add up to a sum, with aux losses once per target, in every module") {
    Generator rng(2);
    const Tensor x = randn({2, 3, kWidth}, rng);
    const Tensor targets = from_host<int64_t>({0, 1, -100, 3, -100, 1}, {2, 3});
    const std::vector<Ref<Module>> models{Linear(kWidth, 5), OutputHead(kWidth, 5),
                                          Block({Linear(kWidth, 5)}),
                                          Block({Linear(kWidth, kWidth), OutputHead(kWidth, 5)})};
    for (const Ref<Module>& model : models) {
      INFO(model->type_name());
      init(*model, {.seed = 3});
      Context mean{.aux_losses = {full({}, 0.5)}}, sum{.aux_losses = {full({}, 0.5)}}, smooth;
      const double mean_loss = model->loss(x, targets, mean).item<double>();
      CHECK(model->loss(x, targets, sum, {.reduction = Reduction::sum}).item<double>() ==
            doctest::Approx(4 * mean_loss).epsilon(1e-5));
      const CrossEntropyOptions smoothed{.label_smoothing = 0.2, .z_loss = 0.1};
      check_close(model->loss(x, targets, smooth, smoothed),
                  cross_entropy(model(x), targets, smoothed), f32, 8, "options");
      check_error([&] { model->loss(x, targets, smooth, {.reduction = Reduction::none}); },
                  {"mean or sum"});
    }
  }
}
