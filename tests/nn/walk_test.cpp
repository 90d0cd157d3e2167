// Modules that are replaced, added or taken out while somebody walks over them or runs them.
#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/nn/activations.h>
#include <olm/nn/linear.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// A layer with a parameter before and one behind its child, and a buffer.
class Around final : public Module {
 public:
  explicit Around(Ref<Module> inner) : inner(this, "inner", std::move(inner)) {}
  Tensor forward(const Tensor& x, Context& ctx) override { return inner(x, ctx); }
  std::string type_name() const override { return "Around"; }
  Parameter before{this, "before", {2}, init::ones};
  Child<> inner;
  Parameter behind{this, "behind", {2}, init::ones};
  Buffer steps{this, "steps", zeros({1}), true};
};

Ref<BlockModule> sample() {
  return Block({Linear(2, 2), make<Around>(Linear(2, 2)), Repeat([] { return Linear(2, 2); }, 2)});
}

/// A layer that calls `put` while it runs and goes on with what it holds.
class Restless final : public Module {
 public:
  explicit Restless(std::function<void()> put) : put(std::move(put)) {}
  Tensor forward(const Tensor& x, Context&) override {
    if (put) put();
    return x * factor;
  }
  std::string type_name() const override { return "Restless"; }
  std::function<void()> put;
  std::vector<double> kept = std::vector<double>(64, 2);
  double factor = 3;
};

using Paths = std::vector<std::string>;

}  // namespace

TEST_SUITE("nn/walk") {
  TEST_CASE("a walk over modules visits those that were there when it began, and they live") {
    const auto model = sample();
    Paths seen;
    model->for_each_module([&](const std::string& path, Module& module) {
      seen.push_back(path + ":" + module.type_name());
      if (dynamic_cast<LinearModule*>(&module)) model->replace(path, Block({GELU(), Identity()}));
      CHECK(module.type_name() + ":" + path != "GELU:");  // the visited one is still there
      CHECK(module.children().size() < 9);
    });
    CHECK(seen == Paths{":Block", "blocks.0:Linear", "blocks.1:Around", "blocks.1.inner:Linear",
                        "blocks.2:Repeat", "blocks.2.stack.0:Linear", "blocks.2.stack.1:Linear"});
    CHECK(model->get("blocks.1.inner.blocks.0")->type_name() == "GELU");
    CHECK(model->get("blocks.2.stack.1")->type_name() == "Block");
  }

  TEST_CASE("what a walk's visitor takes out with its parent is still visited") {
    const auto model = sample();
    int visited = 0;
    model->for_each_module([&](const std::string& path, Module& module) {
      ++visited;
      if (path == "blocks.1") model->replace(path, Identity());
      if (path == "blocks.1.inner") CHECK(module.type_name() == "Linear");
    });
    CHECK(visited == 7);
    CHECK(model->get("blocks.1")->type_name() == "Identity");
  }

  TEST_CASE("a walk over parameters or buffers outlives their modules") {
    const auto model = sample();
    Paths keys;
    model->for_each_parameter([&](const std::string& key, Parameter& p) {
      keys.push_back(key);
      for (const auto& [name, slot] : model->children()) slot->replace(Identity());
      CHECK(p.shape().numel() > 0);
      CHECK(key.ends_with(p.name()));
    });
    CHECK(keys == Paths{"blocks.0.weight", "blocks.0.bias", "blocks.1.before",
                        "blocks.1.inner.weight", "blocks.1.inner.bias", "blocks.1.behind",
                        "blocks.2.stack.0.weight", "blocks.2.stack.0.bias",
                        "blocks.2.stack.1.weight", "blocks.2.stack.1.bias"});
    const auto other = Block({make<Around>(make<Around>(Identity()))});
    Paths buffers;
    other->for_each_buffer([&](const std::string& key, Buffer& b) {
      other->replace("blocks.0", Identity());
      buffers.push_back(key + "=" + b.name());
    });
    CHECK(buffers == Paths{"blocks.0.steps=steps", "blocks.0.inner.steps=steps"});
    const auto last = Block({make<Around>(Identity())});
    int own = 0;
    last->blocks.at(0)->for_each_own_parameter([&](Parameter& p) {
      last->replace("blocks.0", Identity());
      own += int(p.shape().numel());
    });
    CHECK(own == 4);
  }

  TEST_CASE("a walk that starts below what is replaced keeps what it walks over") {
    const auto model = Block({Block({Linear(2, 2), Linear(2, 2)})});
    int visited = 0;
    model->blocks.at(0)->for_each_module([&](const std::string&, Module& module) {
      model->replace("blocks.0", Identity());
      visited += module.type_name().empty() ? 0 : 1;
    });
    CHECK(visited == 3);
  }

  TEST_CASE("lists may grow while they are walked over") {
    const auto model = Block({Linear(2, 2), Linear(2, 2)});
    int modules = 0, parameters = 0;
    model->for_each_module([&](const std::string&, Module&) {
      ++modules;
      for (int i = 0; i < 20; ++i) model->blocks.push_back(Linear(2, 2));
    });
    CHECK(modules == 3);
    CHECK(model->blocks.size() == 62);
    model->for_each_parameter([&](const std::string&, Parameter&) {
      ++parameters;
      model->blocks.push_back(Linear(2, 2));
    });
    CHECK(parameters == 124);
    CHECK(model->blocks.size() == 186);
  }

  TEST_CASE("a module cannot be put into itself, and stays as it was") {
    const auto inner = Block({Linear(2, 2)}), outer = Block({Residual(inner)});
    const auto own_child = [](const char* where) {
      return std::vector<std::string>{"cannot be its own child", where};
    };
    check_error([&] { inner->blocks.push_back(inner); }, own_child("blocks.0.block.blocks.1"));
    check_error([&] { inner->blocks.push_back(outer); }, own_child("at blocks.0.block"));
    check_error([&] { inner->replace("blocks.0", outer); }, own_child("at blocks.0.block"));
    check_error([&] { outer->replace("blocks.0.block", outer); }, {"cannot be its own child"});
    CHECK(inner->blocks.size() == 1);
    CHECK(outer->parameters().size() == 2);
    check_error([&] { inner->get<LinearModule>("blocks.0")->weight.tensor(); },
                {"parameter blocks.0.block.blocks.0.weight has no values"});
    inner->blocks.push_back(Block({inner->get("blocks.0")}));  // the same layer twice is no cycle
    CHECK(outer->parameters().size() == 2);
  }

  TEST_CASE("a module that was taken out no longer names the place it had") {
    const auto linear = Linear(2, 2);
    const auto model = Block({linear});
    model->blocks.replace(0, Identity());
    check_error([&] { linear->weight.tensor(); }, {"parameter weight has no values"});
    { const auto gone = Block({linear}); }
    check_error([&] { linear->weight.tensor(); }, {"parameter weight has no values"});
  }

  TEST_CASE("a layer may put another in its own place while it runs") {
    const Tensor x = ones({2});
    for (const bool training : {false, true}) {
      for (const char* kind : {"Block", "Repeat", "Residual", "Recompute", "Parallel", "Child"}) {
        INFO(kind, training ? ", training" : "");
        const auto restless = [] { return Ref<Module>(make<Restless>(nullptr)); };
        const std::string name = kind;
        const Ref<Module> model = name == "Block"    ? Ref<Module>(Block({restless(), restless()}))
                                  : name == "Repeat" ? Repeat(restless, 2)
                                  : name == "Residual"  ? Residual(restless())
                                  : name == "Recompute" ? Recompute(restless())
                                  : name == "Parallel"  ? Parallel({restless(), restless()})
                                                        : Ref<Module>(make<Around>(restless()));
        init(*model);
        if (training) set_requires_grad(x);
        Module* owner = model.get();
        for (const auto& [path, slot] : model->children())
          dynamic_cast<Restless&>(*slot->module()).put = [owner, path = path] {
            const std::string here = path;  // `put` goes with the layer
            owner->replace(here, Identity());
          };
        const float first = to_host<float>(model(x))[0];
        const bool twice = name == "Block" || name == "Repeat";
        CHECK(first == (twice ? 9 : name == "Residual" ? 4 : name == "Parallel" ? 6 : 3));
        CHECK(model->children()[0].second->module()->type_name() == "Identity");
      }
    }
  }

  TEST_CASE("recomputing is switched in the whole model") {
    const auto inner = Repeat([] { return Linear(2, 2); }, 2);
    const auto model = Block({Repeat([&] { return Residual(inner); }, 1), Residual(sample())});
    CHECK(set_recompute(*model, true) == 2);
    CHECK(model->get<RepeatModule>("blocks.0")->recompute);
    CHECK_FALSE(inner->recompute);
    CHECK(model->get<RepeatModule>("blocks.1.block.blocks.2")->recompute);
    CHECK(set_recompute(*inner, true) == 1);
    CHECK(set_recompute(*model, false) == 0);
    CHECK_FALSE(inner->recompute);
    CHECK_FALSE(model->get<RepeatModule>("blocks.0")->recompute);
    CHECK(set_recompute(*Linear(2, 2), true) == 0);
  }
}
