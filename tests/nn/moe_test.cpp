// Mixtures of experts: layers against fixtures, and what they do beyond them.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/select.h>
#include <olm/kernels/base/parallel.h>
#include <olm/nn/activations.h>
#include <olm/nn/feedforward.h>
#include <olm/nn/model_io.h>
#include <olm/nn/moe.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>
#include <tests/support/layer_parity.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

const std::string kFile = "moe.safetensors";

Tensor tokens_of(uint64_t seed, const Shape& shape) {
  Generator rng(seed);
  return randn(shape, rng);
}

/// A class of experts of which the library knows nothing: counts how often it runs.
class Custom final : public Module {
 public:
  explicit Custom(Ref<Module> inner) : inner(this, "inner", std::move(inner)) {}
  Tensor forward(const Tensor& x, Context& ctx) override {
    ++calls;
    return inner(x, ctx);
  }
  std::string type_name() const override { return "Custom"; }
  Child<> inner;
  int calls = 0;
};

std::vector<std::string> keys_of(Module& module) {
  std::vector<std::string> keys;
  for (const auto& [key, tensor] : module.state_dict()) keys.push_back(key);
  return keys;
}

}  // namespace

TEST_SUITE("nn/moe") {
  TEST_CASE("values and gradients are OLM's, idle experts without any") {
    check_layer_parity("MoERouter", MoERouter(6, 5), kFile);
    const auto classic = [](ClassicMoEFFNOptions o) { return ClassicMoEFFN(6, o); };
    const auto swiglu = [](SwiGLUMoEFFNOptions o) { return SwiGLUMoEFFN(6, o); };
    const auto geglu = [](GeGLUMoEFFNOptions o) { return GeGLUMoEFFN(6, o); };
    const auto check = [](const std::string& name, const auto& layer) {
      check_layer_parity(name, layer({.num_experts = 4, .hidden_dim = 5}), kFile);
      check_layer_parity(name + ".shared",
                         layer({.num_experts = 6,
                                .num_shared_experts = 2,
                                .top_k = 1,
                                .hidden_dim = 4,
                                .bias = false}),
                         kFile);
      check_layer_parity(name + ".idle",
                         layer({.num_experts = 8, .num_shared_experts = 1, .hidden_dim = 4}),
                         kFile);
    };
    check("ClassicMoEFFN", classic);
    check("SwiGLUMoEFFN", swiglu);
    check("GeGLUMoEFFN", geglu);
    check_layer_parity("ClassicMoEFFN.wide", classic({.num_experts = 3, .top_k = 3}), kFile);
    check_layer_parity("SwiGLUMoEFFN.wide", swiglu({.num_experts = 3}), kFile);
    check_layer_parity("GeGLUMoEFFN.wide", geglu({.num_experts = 3}), kFile);
    check_layer_parity("ClassicMoEFFN.relu",
                       classic({.num_experts = 4, .hidden_dim = 5, .activation = "relu"}), kFile);
    check_layer_parity("ClassicMoEFFN.mish",
                       classic({.num_experts = 4, .hidden_dim = 5, .activation_fn = Mish()}),
                       kFile);
  }

  TEST_CASE("sigmoid scores, bias, groups and scale are DeepSeek-V3's") {
    const MoERoutingOptions routing{.scoring_func = "sigmoid",
                                    .routed_scaling_factor = 2.5,
                                    .n_group = 4,
                                    .topk_group = 2,
                                    .use_expert_bias = true};
    check_layer_parity("MoERouter.deepseek_v3", MoERouter(6, 8, {.top_k = 3, .routing = routing}),
                       kFile);
    check_layer_parity("SwiGLUMoEFFN.deepseek_v3",
                       SwiGLUMoEFFN(6, {.num_experts = 8,
                                        .num_shared_experts = 1,
                                        .top_k = 3,
                                        .hidden_dim = 5,
                                        .bias = false,
                                        .routing = routing}),
                       kFile);
    check_layer_parity("MoERouter.qwen3",
                       MoERouter(6, 6, {.top_k = 2, .routing = {.norm_topk_prob = false}}), kFile);
  }

  TEST_CASE("keys, sizes and defaults are OLM's") {
    const auto layer = SwiGLUMoEFFN({.embed_dim = 4, .num_experts = 2, .num_shared_experts = 1});
    init(layer);
    CHECK(keys_of(*layer) ==
          std::vector<std::string>{
              "router.gate.weight", "experts.0.up_proj.weight", "experts.0.up_proj.bias",
              "experts.0.down_proj.weight", "experts.0.down_proj.bias", "experts.1.up_proj.weight",
              "experts.1.up_proj.bias", "experts.1.down_proj.weight", "experts.1.down_proj.bias",
              "shared_experts.0.up_proj.weight", "shared_experts.0.up_proj.bias",
              "shared_experts.0.down_proj.weight", "shared_experts.0.down_proj.bias"});
    CHECK(layer->parameter("router.gate.weight").shape() == Shape{2, 4});
    CHECK(layer->parameter("experts.1.up_proj.weight").shape() == Shape{20, 4});
    CHECK(GeGLUMoEFFN(4)->parameter("experts.7.down_proj.weight").shape() == Shape{4, 10});
    CHECK(ClassicMoEFFN(4)->parameter("experts.7.up_proj.weight").shape() == Shape{16, 4});
    const auto biased = MoERouter(4, 3, {.routing = {.use_expert_bias = true}});
    init(biased);
    CHECK(keys_of(*biased) == std::vector<std::string>{"gate.weight", "expert_bias"});
    CHECK(to_host<float>(*biased->expert_bias) == std::vector<float>{0, 0, 0});
  }

  TEST_CASE("experts of any class run on their tokens alone, to the same numbers") {
    const MoEOptions sizes{.embed_dim = 6, .num_experts = 8, .num_shared_experts = 1};
    const auto known = MoEFeedForward(sizes, [] { return SwiGLUFFN(6, {.hidden_dim = 4}); });
    const auto custom =
        MoEFeedForward(sizes, [] { return make<Custom>(SwiGLUFFN(6, {.hidden_dim = 4})); });
    init(known, {.seed = 3});
    std::map<std::string, Tensor> values;
    for (auto [key, tensor] : known->state_dict()) {
      for (const char* list : {"experts.", "shared_experts."})
        if (const size_t at = std::string(list).size(); key.starts_with(list))
          key.insert(key.find('.', at) + 1, "inner.");
      values[key] = tensor;
    }
    custom->load_state_dict(values);
    const Tensor a = tokens_of(1, {1, 3, 6}), b = raw::clone(a);
    set_requires_grad(a);
    set_requires_grad(b);
    const Tensor y = known(a), z = custom(b);
    check_close(z, y, f32, 8, "one by one");
    const Tensor dy = tokens_of(2, {1, 3, 6});
    backward(y, {.gradient = dy});
    backward(z, {.gradient = dy});
    check_close(grad(b), grad(a), f32, 8, "dx");
    int idle = 0;
    for (int e = 0; e < 8; ++e) {
      const std::string path = "experts." + std::to_string(e);
      const auto expert = custom->get<Custom>(path);
      const Tensor wanted = grad(known->parameter(path + ".up_proj.weight").tensor());
      const Tensor got = grad(custom->parameter(path + ".inner.up_proj.weight").tensor());
      CHECK(expert->calls == (got.defined() ? 1 : 0));
      REQUIRE(got.defined() == wanted.defined());
      if (got.defined()) check_close(got, wanted, f32, 8, path);
      idle += !got.defined();
    }
    CHECK(idle >= 2);
    CHECK(custom->get<Custom>("shared_experts.0")->calls == 1);
  }

  TEST_CASE("experts that differ are not computed as if they were alike") {
    const ClassicFFNOptions usual{.hidden_dim = 5};
    for (const ClassicFFNOptions& other :
         {ClassicFFNOptions{.hidden_dim = 5, .activation = "relu"},
          ClassicFFNOptions{.hidden_dim = 4}, ClassicFFNOptions{.hidden_dim = 5, .bias = false}}) {
      int made = 0;
      const auto mixed = MoEFeedForward({.embed_dim = 6, .num_experts = 3, .top_k = 3},
                                        [&] { return ClassicFFN(6, made++ == 1 ? other : usual); });
      init(mixed, {.seed = 3});
      const Tensor x = tokens_of(1, {5, 6});
      const Tensor weights = (*mixed->router.typed())(x);
      Tensor wanted = zeros({5, 6});
      for (int64_t e = 0; e < 3; ++e)
        wanted =
            wanted + mixed->get("experts." + std::to_string(e))(x) * slice(weights, 1, e, e + 1);
      check_close(mixed(x), wanted, f32, 16, "mixed");
    }
  }

  TEST_CASE("an expert that was replaced is run by itself, and model.json tells of it") {
    const auto layer = ClassicMoEFFN({.embed_dim = 6, .num_experts = 3, .top_k = 3});
    init(layer, {.seed = 1});
    const Tensor x = tokens_of(1, {4, 6});
    const Tensor before = layer(x);
    layer->replace("experts.1.up_proj", Block({layer->get("experts.1.up_proj")}));
    check_close(layer(x), before, f32, 24, "replaced");
    const auto again = build(describe(*layer));
    CHECK(again->get("experts.1.up_proj")->type_name() == "Block");
    CHECK(again->get("experts.0.up_proj")->type_name() == "Linear");
    CHECK(describe(*again) == describe(*layer));
  }

  TEST_CASE("mixtures come back from a folder with all their options") {
    const TempFolder folder;
    const MoERoutingOptions routing{.scoring_func = "sigmoid",
                                    .norm_topk_prob = false,
                                    .routed_scaling_factor = 1.5,
                                    .n_group = 2,
                                    .topk_group = 1,
                                    .load_balancing_coefficient = 0.01,
                                    .z_loss_coefficient = 0.001,
                                    .use_expert_bias = true,
                                    .bias_update_rate = 0.25};
    const auto model = Block({
        ClassicMoEFFN({.embed_dim = 4, .num_experts = 4, .activation = "silu", .routing = routing}),
        SwiGLUMoEFFN({.embed_dim = 4, .num_experts = 2, .num_shared_experts = 2, .top_k = 1}),
        GeGLUMoEFFN({.embed_dim = 4, .num_experts = 3, .hidden_dim = 7, .bias = false}),
        MoEFeedForward({.embed_dim = 4, .num_experts = 4, .routing = routing},
                       [] { return ClassicFFN(4, {.activation = "relu"}); }),
    });
    init(model, {.seed = 2});
    const auto first = model->get<ClassicMoEFFNModule>("blocks.0");
    first->router.typed()->expert_bias->assign(from_host<float>({0.5, -0.25, 0, 1}, {4}));
    const Tensor x = tokens_of(4, {2, 5, 4}), y = model(x);
    save(model, folder.path());
    const Ref<Module> loaded = load(folder.path());
    CHECK(describe(*loaded) == describe(*model));
    check_same_bits(loaded(x), y, "loaded");
    test::check_error(
        [&] {
          build(Json::parse(R"({"type": "MoEFeedForward", "options":
        {"embed_dim": 4, "num_experts": 2}})",
                            ""));
        },
        {"wanted 2 experts", "got 0"});
  }

  TEST_CASE("dropout acts within experts while training, and the same seed gives the same") {
    const auto layer = GeGLUMoEFFN({.embed_dim = 16, .num_experts = 4, .top_k = 1, .dropout = 0.5});
    init(layer, {.seed = 1});
    const Tensor x = tokens_of(1, {4, 16, 16});
    Generator first(9), second(9);
    Context one{.rng = &first}, two{.rng = &second};
    const Tensor y = layer(x, one);
    check_same_bits(y, layer(x, two), "dropout");
    int64_t zeros = 0;
    for (const float v : to_host<float>(y)) zeros += v == 0;
    CHECK(zeros > 400);
    CHECK(zeros < 624);
    for (const float v : to_host<float>(layer(x))) CHECK(v != 0);
  }

  TEST_CASE("results have the same bits for any number of threads") {
    const auto layer =
        SwiGLUMoEFFN({.embed_dim = 32,
                      .num_experts = 8,
                      .num_shared_experts = 1,
                      .routing = {.load_balancing_coefficient = 0.1, .z_loss_coefficient = 0.1}});
    init(layer, {.seed = 1});
    const int before = num_threads();
    std::vector<Tensors> results;
    for (const int threads : {1, 2, 3, 4}) {
      set_threads(threads);
      const Tensor x = tokens_of(2, {4, 60, 32});
      set_requires_grad(x);
      Generator rng(1);
      Context ctx{.rng = &rng};
      const Tensor y = layer(x, ctx);
      Tensor loss = sum(y * tokens_of(3, {4, 60, 32}));
      for (const Tensor& aux : ctx.aux_losses) loss = loss + aux;
      backward(loss);
      Tensors all{y, grad(x)};
      for (const Tensor& p : layer->parameters()) all.push_back(raw::clone(grad(p)));
      layer->zero_grad();
      results.push_back(all);
    }
    set_threads(before);
    for (const Tensors& other : results)
      for (size_t i = 0; i < other.size(); ++i) check_same_bits(other[i], results[0][i], "threads");
  }

  TEST_CASE("bf16 activations are routed by f32 scores") {
    const auto layer = SwiGLUMoEFFN({.embed_dim = 16, .num_experts = 4});
    init(layer, {.seed = 1});
    const Tensor x = raw::cast(tokens_of(5, {2, 9, 16}), bf16);
    MoERouterModule& router = *layer->router.typed();
    Context ctx;
    const MoERouting low = router.route(x, ctx).routing;
    const MoERouting high = router.route(raw::cast(x, f32), ctx).routing;
    CHECK(low.scores.dtype() == f32);
    check_same_bits(low.scores, high.scores, "scores");
    const Tensor rows = router(x);
    CHECK(rows.dtype() == bf16);
    check_same_bits(rows, raw::cast(router(raw::cast(x, f32)), bf16), "rows");
    const Tensor y = layer(x);
    CHECK(y.dtype() == bf16);
    check_close(y, layer(raw::cast(x, f32)), bf16, 40, "bf16");
    backward(y, {.gradient = ones_like(y)});
    for (const Tensor& p : layer->parameters())
      if (grad(p).defined()) CHECK(grad(p).dtype() == f32);
  }

  TEST_CASE("FLOPs and active parameters count the experts that a token uses") {
    const auto layer = SwiGLUMoEFFN({.embed_dim = 4,
                                     .num_experts = 8,
                                     .num_shared_experts = 1,
                                     .top_k = 2,
                                     .hidden_dim = 5,
                                     .bias = false});
    constexpr double kExpert = 3 * 4 * 5, kRouter = 8 * 4;
    CHECK(forward_flops_per_token(*layer, 7) == 2 * (3 * kExpert + kRouter));
    CHECK(active_parameters(*layer) == int64_t(3 * kExpert + kRouter));
    CHECK(layer->num_parameters() == int64_t(9 * kExpert + kRouter));
    const auto model = Block({Linear(4, 4), layer});
    CHECK(active_parameters(*model) == int64_t(3 * kExpert + kRouter) + 20);
    CHECK(summary(*model).find("total 592 parameters, 592 trained, 232 active for a token\n") !=
          std::string::npos);
    CHECK(summary(*model).find("experts.0..7 × 8: SwiGLUFFN") != std::string::npos);
    CHECK(summary(*Linear(4, 4)).find("active") == std::string::npos);
  }

  TEST_CASE("models are initialised as GPT-2, and on meta keep their shapes") {
    const auto layer = SwiGLUMoEFFN({.embed_dim = 64, .num_experts = 2, .num_shared_experts = 1});
    init_gpt2(layer, 8, {.seed = 1});
    const auto deviation = [&](const char* key) {
      double sum = 0;
      const std::vector<double> all = to_host<double>(layer->parameter(key).tensor());
      for (const double v : all) sum += v * v;
      return std::sqrt(sum / double(all.size()));
    };
    for (const char* key : {"router.gate.weight", "experts.1.up_proj.weight"})
      CHECK(deviation(key) == doctest::Approx(0.02).epsilon(0.15));
    for (const char* key : {"experts.1.down_proj.weight", "shared_experts.0.down_proj.weight"})
      CHECK(deviation(key) == doctest::Approx(0.005).epsilon(0.05));
    CHECK(deviation("experts.0.up_proj.bias") == 0);
    for (const bool custom : {false, true}) {
      const auto shapes = MoEFeedForward(
          {.embed_dim = 8, .num_shared_experts = 1, .routing = {.use_expert_bias = true}},
          [=]() -> Ref<Module> {
            if (custom) return make<Custom>(SwiGLUFFN(8));
            return SwiGLUFFN(8);
          });
      init(shapes, {.device = meta});
      CHECK(shapes(empty({2, 3, 8}, {.device = meta})).shape() == Shape{2, 3, 8});
    }
  }

  TEST_CASE("what does not fit is refused by name") {
    check_error([] { SwiGLUMoEFFN(0); }, {"SwiGLUMoEFFN", "embed_dim", "0"});
    check_error([] { GeGLUMoEFFN(4, {.num_experts = 0}); }, {"GeGLUMoEFFN", "num_experts", "0"});
    check_error([] { ClassicMoEFFN(4, {.num_shared_experts = -1}); },
                {"ClassicMoEFFN", "num_shared_experts", "-1"});
    check_error([] { ClassicMoEFFN(4, {.num_experts = 2, .top_k = 3}); }, {"top_k 3", "2 experts"});
    check_error([] { ClassicMoEFFN(4, {.top_k = 0}); }, {"ClassicMoEFFN", "top_k", "0"});
    check_error([] { SwiGLUMoEFFN(4, {.hidden_dim = 0}); }, {"SwiGLUFFN", "hidden_dim 0"});
    check_error([] { SwiGLUMoEFFN(4, {.dropout = 2}); }, {"SwiGLUFFN", "2"});
    const auto routing = [](MoERoutingOptions r) { MoERouter(4, 8, {.top_k = 3, .routing = r}); };
    check_error([&] { routing({.n_group = 3}); }, {"n_group 3", "8 experts"});
    check_error([&] { routing({.n_group = 0}); }, {"n_group", "0"});
    check_error([&] { routing({.n_group = 2, .topk_group = 3}); }, {"topk_group", "3 of 2"});
    check_error([&] { routing({.n_group = 4, .topk_group = 1}); }, {"top_k 3", "the 2 experts"});
    check_error([&] { routing({.scoring_func = "relu"}); }, {"scoring_func", "relu", "sigmoid"});
    check_error([&] { routing({.routed_scaling_factor = 0}); }, {"routed_scaling_factor", "0"});
    check_error([&] { routing({.load_balancing_coefficient = -0.1}); },
                {"load_balancing_coefficient", "-0.1"});
    check_error([&] { routing({.z_loss_coefficient = NAN}); }, {"z_loss_coefficient", "nan"});
    check_error([&] { routing({.bias_update_rate = -1}); }, {"bias_update_rate", "-1"});
    const auto layer = SwiGLUMoEFFN(8);
    init(layer);
    check_error([&] { layer(ones({2, 3, 7})); }, {"SwiGLUMoEFFN", "8", "[2,3,7]"});
    const auto wrong = MoEFeedForward({.embed_dim = 8}, [] { return Linear(8, 4); });
    init(wrong);
    check_error([&] { wrong(ones({2, 8})); }, {"Linear", "[2,4]", "[2,8]"});
    check_error([] { MoEFeedForward({.embed_dim = 8}, [] { return Ref<Module>(); }); },
                {"experts.0: a module was wanted"});
    int made = 0;
    const auto count = [&] { return ++made, Linear(8, 8); };
    check_error([&] { MoEFeedForward({.embed_dim = 8, .num_experts = 200000}, count); },
                {"MoEFeedForward", "num_experts", "200000"});
    CHECK(made == 0);
    layer->replace("router", Linear(8, 8));
    init(layer);
    check_error([&] { layer(ones({2, 8})); }, {"SwiGLUMoEFFN", "MoERouter", "Linear"});
  }
}
