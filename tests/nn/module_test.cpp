#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/norm.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/engine/allocator.h>
#include <olm/nn/models.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

struct ScaleOptions {
  int64_t dim = 0;
  double start = 1;
  void fields(auto& v) {
    v("dim", dim);
    v("start", start);
  }
};
/// y = x · weight.
class ScaleModule final : public Layer<ScaleOptions> {
 public:
  explicit ScaleModule(ScaleOptions o)
      : Layer(o), weight{this, "weight", {o.dim}, init::constant(o.start)} {}
  Tensor forward(const Tensor& x, Context&) override { return x * weight; }
  std::string type_name() const override { return "Scale"; }
  Parameter weight;
  Buffer steps{this, "steps", zeros({1}), true};
};
Ref<ScaleModule> Scale(int64_t dim, double start = 1) {
  return make<ScaleModule>(ScaleOptions{dim, start});
}

/// A norm that fuses with the sum before it, and counts how often it did.
class CountingNorm : public Module {
 public:
  Tensor forward(const Tensor& x, Context&) override { return rms_norm(x, weight); }
  ResidualStream forward_residual(ResidualStream& in, Context& ctx, FusedCall) override {
    fused += in.delta.defined() ? 1 : 0;
    return forward(in.total(), ctx);
  }
  std::string type_name() const override { return "CountingNorm"; }
  int fused = 0;
  Parameter weight{this, "weight", {4}, init::ones};
};

class Noise final : public Module {
 public:
  Tensor forward(const Tensor& x, Context& ctx) override {
    return ctx.rng ? x * olm::uniform(x.shape(), *ctx.rng) : x;
  }
  std::string type_name() const override { return "Noise"; }
};

}  // namespace

TEST_SUITE("nn/module") {
  TEST_CASE("Block({Block({x})}) keeps both levels, and Residual(Residual(x)) too") {
    const auto block = Block({Block({Scale(3)})});
    CHECK(block->named_parameters()[0].first == "blocks.0.blocks.0.weight");
    const auto residual = Residual(Residual(Scale(3)));
    CHECK(residual->named_parameters()[0].first == "block.block.weight");
    init(residual);
    CHECK(residual(ones({3})).data<float>()[0] == 3);  // x + (x + x)
  }

  TEST_CASE("combinators compute and name what they say") {
    const auto model =
        Block({Repeat([] { return Residual(Scale(2, 2)); }, 3), Parallel({Scale(2), Scale(2, 3)}),
               Parallel({Scale(2), Scale(2)}, merge::cat()),
               Parallel({Scale(4), Scale(4)},
                        [](const Tensors& outs, int64_t) { return outs[0] - outs[1]; })});
    init(model);
    std::vector<std::string> keys;
    for (const auto& [key, tensor] : model->named_parameters()) keys.push_back(key);
    CHECK(keys[1] == "blocks.0.stack.1.block.weight");
    CHECK(keys[4] == "blocks.1.blocks.1.weight");
    CHECK(to_host<float>(model->get("blocks.0")(ones({2}))) == std::vector<float>{27, 27});
    CHECK(to_host<float>(model->get("blocks.1")(ones({2}))) == std::vector<float>{4, 4});
    CHECK(model->get("blocks.2")(ones({2})).shape() == Shape{4});
    CHECK(to_host<float>(model(ones({2}))) == std::vector<float>(4, 0));
    const Tensor x = ones({2});
    CHECK(to_host<float>(Block({})(x)) == to_host<float>(x));
    CHECK(to_host<float>(Repeat([] { return Scale(2); }, 0)(x)) == to_host<float>(x));
    check_error([] { Repeat([] { return Scale(2); }, -1); }, {"num_repeat", "-1"});
  }

  TEST_CASE("a sum meets the norm that follows it, through blocks and repeats") {
    std::vector<CountingNorm*> counting;
    const auto norm = [&] {
      auto module = make<CountingNorm>();
      counting.push_back(module.get());
      return module;
    };
    const auto layer = [&] {
      return Block(
          {Residual(Block({norm(), Scale(4, 0.5)})), Residual(Block({norm(), Scale(4, 2)}))});
    };
    const auto model = Block({Scale(4), Repeat(layer, 2), norm()});
    init(model);
    Generator rng(1);
    const Tensor x = randn({3, 4}, rng);
    const Tensor y = model(x);
    for (size_t i = 0; i < counting.size(); ++i) CHECK(counting[i]->fused == (i > 0 ? 1 : 0));
    Tensor wanted = x;
    const Tensor one = ones({4});
    for (const double scale : {0.5, 2.0, 0.5, 2.0}) wanted = wanted + rms_norm(wanted, one) * scale;
    check_close(y, rms_norm(wanted, one), f32, 4, "fused");
  }

  TEST_CASE("tying shares one tensor under two keys") {
    const auto model = Block({Scale(3), Block({Scale(3, 5)})});
    model->parameter("blocks.1.blocks.0.weight") = model->parameter("blocks.0.weight");
    init(model);
    CHECK(model->parameters().size() == 1);
    CHECK(model->state_dict().size() == 4);  // two weights, two buffers
    CHECK(model->num_parameters() == 3);
    const Tensor y = model(full({3}, 2));
    CHECK(y.data<float>()[0] == 2);
    backward(y, {.gradient = ones({3})});
    CHECK(grad(model->parameters()[0]).data<float>()[0] == 4);  // d(2·w²)/dw at 1
    check_error([&] { Scale(2)->parameter("weight") = model->parameter("blocks.0.weight"); },
                {"[2]", "[3]"});
  }

  TEST_CASE("replace, freeze, move, count and summarise a built model") {
    const auto model = Block({Scale(3), Residual(Scale(3))});
    init(model);
    const Tensor kept = model->parameters()[0];
    model->replace("blocks.1.block", Scale(3, 7));
    init(*model->get("blocks.1"));
    CHECK(model->get<ScaleModule>("blocks.1.block")->options.start == 7);
    CHECK(model->get("").get() == model.get());
    CHECK(model->get<BlockModule>("") == model);
    ScaleModule unshared({.dim = 2});
    check_error([&] { unshared.get(""); }, {"get", "Scale", "Ref"});
    check_error([&] { model->get<ResidualModule>("blocks.0"); }, {"blocks.0", "Scale"});
    check_error([&] { model->get("blocks.2"); }, {"blocks.2", "blocks.0, blocks.1"});
    check_error([&] { model->parameter("blocks.0.wight"); }, {"wight", "blocks.0.weight"});
    model->freeze("blocks.1");
    CHECK(model->num_parameters() == 6);
    CHECK(model->num_parameters(true) == 3);
    const std::string text = summary(*model);
    for (const char* part :
         {"Block", "Residual", "Scale", "[3]", "(frozen)", "total 6 parameters, 3 trained"})
      CHECK(text.find(part) != std::string::npos);
    model->freeze("blocks.1", false);
    model->to(bf16);
    CHECK(kept.dtype() == bf16);
    CHECK(kept.is_same(model->parameters()[0]));
    model->to(meta);
    CHECK(kept.device() == meta);
    CHECK(model->get<ScaleModule>("blocks.0")->steps.tensor().device() == meta);
  }

  TEST_CASE("parameters are filled before use, each from its own stream") {
    const auto model = Block({Scale(3)});
    check_error([&] { model(ones({3})); }, {"blocks.0.weight", "init"});
    const auto fill = [](uint64_t seed, const std::string& key) {
      Generator rng(derive_seed(seed, key));
      return init::normal(1)({4}, rng);
    };
    CHECK(to_host<float>(fill(1, "a")) == to_host<float>(fill(1, "a")));
    CHECK(to_host<float>(fill(1, "a")) != to_host<float>(fill(1, "b")));
    init(model, {.device = meta});
    CHECK(model(empty({2, 3}, {.device = meta})).shape() == Shape{2, 3});
    init(model, {.seed = 1});
    CHECK(model->parameters()[0].device() == cpu);
    Generator rng(1);
    const Tensor u = init::fan_in(4)({1000}, rng);
    for (const float v : to_host<float>(u)) CHECK(std::abs(v) <= 0.5f);
  }

  TEST_CASE("a state dict loads whole or not at all") {
    const auto model = Block({Scale(2), Scale(3)});
    init(model);
    const auto state = [](int64_t a, int64_t b) {
      return std::map<std::string, Tensor>{{"blocks.0.weight", full({a}, 5)},
                                           {"blocks.1.weight", full({b}, 6)},
                                           {"blocks.0.steps", full({1}, 9)},
                                           {"blocks.1.steps", full({1}, 9)}};
    };
    check_error([&] { model->load_state_dict(state(2, 4)); }, {"blocks.1.weight", "[3]", "[4]"});
    CHECK(model->parameters()[0].data<float>()[0] == 1);
    auto whole = state(2, 3);
    whole["blocks.1.steps"] = zeros({1}, {.dtype = i64});
    check_error([&] { model->load_state_dict(whole); }, {"blocks.1.steps", "f32 [1]", "i64 [1]"});
    CHECK(model->parameters()[0].data<float>()[0] == 1);
    auto partial = state(2, 3);
    partial.erase("blocks.1.weight");
    check_error([&] { model->load_state_dict(partial); }, {"blocks.1.weight", "missing"});
    auto extra = state(2, 3);
    extra["other"] = zeros({1});
    check_error([&] { model->load_state_dict(extra); }, {"other"});
    auto all = extra;
    all.erase("blocks.1.weight");
    all["blocks.0.weight"] = zeros({7});
    all["blocks.0.steps"] = zeros({2});
    all["another"] = zeros({1});
    check_error([&] { model->load_state_dict(all); },
                {"blocks.0.weight wants shape [2], got [7]; ", "blocks.0.steps wants f32 [1]",
                 "key blocks.1.weight is missing; ", "key another belongs to no parameter; ",
                 "key other belongs to no parameter"});
    check_error([&] { model->load_state_dict(all, {.strict = false}); },
                {"blocks.0.weight wants shape [2], got [7]; ", "blocks.0.steps"});
    CHECK(model->parameters()[0].data<float>()[0] == 1);
    model->load_state_dict(extra, {.strict = false});
    CHECK(model->parameters()[0].data<float>()[0] == 5);
    CHECK(model->get<ScaleModule>("blocks.1")->steps.tensor().item<float>() == 9);
    model->load_state_dict(model->state_dict());
  }

  TEST_CASE("a state dict is brought to the dtype and device of what is filled") {
    const auto model = Block({Scale(2), Scale(3)}), bare = Block({Scale(2), Scale(3)});
    init(model);
    auto values = model->state_dict();
    for (auto& [key, tensor] : values) tensor = raw::clone(tensor);
    model->to(bf16);
    model->load_state_dict(values);
    CHECK(model->parameters()[0].dtype() == bf16);
    bare->load_state_dict(values);
    CHECK(bare->parameters()[0].dtype() == f32);
    model->to(meta);
    check_error([&] { model->load_state_dict(values); }, {"blocks.0.weight", "on meta", "on cpu"});
    CHECK(model->parameters()[0].device() == meta);
    const auto none = model->state_dict();
    model->load_state_dict(none);
    CHECK(model->parameters()[0].device() == meta);
    check_error([&] { bare->load_state_dict(none); }, {"blocks.0.weight", "on cpu", "on meta"});
    CHECK(bare->parameters()[0].device() == cpu);
  }

  TEST_CASE("Recompute gives the same values, gradients and random numbers") {
    Tensors plain, again;
    for (Tensors* to : {&plain, &again}) {
      Ref<Module> inner = Block({Scale(4, 2), make<Noise>(), Scale(4, 3)});
      const auto model = to == &plain ? Block({inner}) : Block({Recompute(inner)});
      init(model);
      Generator rng(8);
      Context ctx{.rng = &rng};
      const Tensor x = ones({2, 4});
      set_requires_grad(x);
      const Tensor y = model(model(x, ctx), ctx);
      backward(y, {.gradient = ones(y.shape())});
      *to = {y, grad(x), grad(model->parameters()[0]), grad(model->parameters()[1]),
             from_host<int64_t>({int64_t(rng.offset())}, {1})};
    }
    for (size_t i = 0; i < plain.size(); ++i) check_same_bits(plain[i], again[i], "recompute");
  }

  TEST_CASE("a Repeat that recomputes trains the same, up to rounding, with less memory") {
    Tensors results[2];
    size_t peaks[2] = {};
    for (const bool recompute : {false, true}) {
      const auto model =
          GPT2Model({.vocab_size = 50,
                     .embed_dim = 64,
                     .num_layers = 8,
                     .num_heads = 4,
                     .max_seq_len = 64,
                     .bias = false});  // of keys the gradient is 0, and rounding all there is
      model->get<RepeatModule>("blocks.1")->recompute = recompute;
      init(model, {.seed = 4});
      Generator data(5), rng(6);
      const Tensor ids = randint(0, 50, {4, 64}, data), targets = randint(0, 50, {4, 64}, data);
      Context ctx{.rng = &rng};
      reset_peak_memory(cpu);
      const size_t before = memory_stats(cpu).in_use;
      const Tensor loss = model->loss(ids, targets, ctx);
      backward(loss);
      peaks[recompute] = memory_stats(cpu).peak - before;
      results[recompute] = {loss};
      for (const Tensor& p : model->parameters()) results[recompute].push_back(grad(p));
      results[recompute].push_back(from_host<int64_t>({int64_t(rng.offset())}, {1}));
    }
    REQUIRE(results[0].size() == results[1].size());
    for (size_t i = 0; i < results[0].size(); ++i)
      check_close(results[1][i], results[0][i], f32, 256, "recompute");
    CHECK(peaks[1] < peaks[0] / 2);
  }
}

namespace {

struct InnerOptions {
  std::vector<double> numbers = {};
  std::optional<std::string> text = {};
  void fields(auto& v) {
    v("numbers", numbers, {.above = 0});
    v("text", text);
  }
};
struct ListOptions {
  std::optional<std::string> kind = {};
  InnerOptions inner = {};
  void fields(auto& v) {
    v("kind", kind, {.one_of = {"a", "b"}});
    v("inner", inner);
  }
};

}  // namespace

TEST_SUITE("nn/fields") {
  TEST_CASE("numbers that JSON has no word for are refused by name") {
    for (const double bad : {double(NAN), double(INFINITY)}) {
      ScaleOptions options{.dim = 2, .start = bad};
      check_error([&] { to_json(options); }, {"start", "finite"});
    }
  }

  TEST_CASE("optional texts and lists of numbers go to JSON and back") {
    ListOptions o{.kind = "b", .inner = {.numbers = {1.5, 2}}}, back;
    const Json json = to_json(o);
    CHECK(json.dump() == R"({"kind":"b","inner":{"numbers":[1.5,2.0],"text":null}})");
    from_json(json, back, "List");
    CHECK(to_json(back) == json);
    from_json(Json::parse(R"({"kind":null,"inner":{"numbers":[3],"text":"x"}})"), back, "List");
    CHECK(!back.kind);
    CHECK(back.inner.numbers == std::vector<double>{3});
    CHECK(*back.inner.text == "x");
    const auto refuse = [](const char* text, const std::vector<std::string>& parts) {
      ListOptions read;
      check_error([&] { from_json(Json::parse(text), read, "List"); }, parts);
    };
    refuse(R"({"kind":"c"})", {"List", "kind", "a or b", "\"c\""});
    refuse(R"({"kind":1})", {"List", "kind", "a string or null", "1"});
    refuse(R"({"inner":{"numbers":2}})", {"List.inner", "numbers", "a list of numbers", "2"});
    refuse(R"({"inner":{"numbers":[1,"x"]}})", {"List.inner", "numbers", "a list of numbers"});
    refuse(R"({"inner":{"numbers":[1,0]}})", {"List.inner", "numbers", "above 0", "0"});
    o.kind = "c";
    check_error([&] { check_fields(o, "List"); }, {"List.kind", "a or b", "c"});
    o = {.inner = {.numbers = {double(NAN)}}};
    check_error([&] { to_json(o); }, {"numbers", "finite"});
    check_error([&] { check_fields(o, "List"); }, {"List.inner.numbers", "finite"});
  }

  TEST_CASE("options stand over defaults member by member, and what differs is described") {
    const ListOptions usual{.kind = "a", .inner = {.numbers = {1}, .text = "x"}};
    const ListOptions both = over(usual, {.inner = {.numbers = {2, 3}}}, "List");
    CHECK(to_json(both).dump() == R"({"kind":"a","inner":{"numbers":[2.0,3.0],"text":"x"}})");
    CHECK(over(usual, {.kind = "b"}, "List").inner.numbers == std::vector<double>{1});
    const auto described = [&](ListOptions o, const std::vector<std::string>& listed) {
      JsonWriter writer;
      ChangedFields changed(writer, to_json(o), to_json(usual), listed);
      o.fields(changed);
      return writer.result().dump();
    };
    CHECK(described(both, {}) == R"({"inner":{"numbers":[2.0,3.0]}})");
    CHECK(described(usual, {"kind"}) == R"({"kind":"a"})");
    check_error([&] { over(usual, {.kind = "c"}, "List"); }, {"List", "kind", "a or b"});
  }

  TEST_CASE("options go to JSON and back, and what does not fit is named") {
    ScaleOptions o{.dim = 7, .start = 0.25};
    CHECK(to_json(o).dump() == R"({"dim":7,"start":0.25})");
    ScaleOptions back;
    from_json(Json::parse(R"({"start":2,"dim":3})"), back, "Scale");
    CHECK(back.dim == 3);
    CHECK(back.start == 2);
    check_error([&] { from_json(Json::parse(R"({"dims":3})"), back, "Scale"); },
                {"Scale", "dims", "dim, start"});
    check_error([&] { from_json(Json::parse(R"({"dim":"x"})"), back, "Scale"); },
                {"Scale", "dim", "an integer", "\"x\""});
    check_error([&] { from_json(Json::parse("[]"), back, "Scale"); }, {"Scale", "object"});
    check_error([] { parse_dtype("f8", "here"); }, {"here", "f8", "bf16"});
  }
}
