// Mixtures of experts in training: what reaches the loss, the metrics and the expert biases.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/combine.h>
#include <olm/autograd/ops/view.h>
#include <olm/engine/file.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/training.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 7, kWidth = 16;

struct Made {
  MoERoutingOptions routing = {};
  int64_t layers = 2;
  double dropout = 0;
  bool skewed = false;  // gates begin far from even
};

Ref<BlockModule> language_model(const Made& made) {
  const auto layer = [&] {
    return Block({
        Residual(Block({RMSNorm(kWidth), FlashAttentionwithRoPE(kWidth, 2, 8, {.causal = true})})),
        Residual(Block({RMSNorm(kWidth), SwiGLUMoEFFN({.embed_dim = kWidth,
                                                       .num_experts = 4,
                                                       .num_shared_experts = 1,
                                                       .top_k = 2,
                                                       .hidden_dim = 8,
                                                       .dropout = made.dropout,
                                                       .routing = made.routing})})),
    });
  };
  auto model =
      Block({Embedding(kVocab, kWidth), Repeat(layer, made.layers), OutputHead(kWidth, kVocab)});
  init_gpt2(model, made.layers, {.seed = 1});
  if (!made.skewed) return model;
  // The RMSNorm before it has a first feature that is large for every token, and the gates of the
  // first experts like it.
  model->for_each_parameter([](const std::string& key, Parameter& p) {
    std::vector<float> values = to_host<float>(p.tensor());
    if (key.ends_with("embedding.weight"))
      for (size_t i = 0; i < values.size(); i += kWidth) values[i] = 0.2F;
    if (key.ends_with("gate.weight"))
      for (size_t e = 0; e < 4; ++e) values[e * kWidth] = e < 2 ? 0.3F : -0.3F;
    p.assign(from_host<float>(values, p.shape()));
  });
  return model;
}

TokenDataset tokens(int64_t count = 2000) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t((i * i + i / 3) % kVocab));
  return TokenDataset::from_ids(ids, int32_t(kVocab));
}

LoaderOptions batches(int64_t batch = 4) { return {.batch = batch, .context = 8, .seed = 5}; }
TrainerOptions steps(int64_t count) {
  return {.total_steps = count, .seed = 3, .schedule = {.kind = "constant", .lr = 1e-2}};
}

Batch batch_of(int64_t size = 4) { return Loader(tokens(), batches(size)).next(); }

std::vector<float> biases(Module& model) {
  std::vector<float> all;
  model.for_each_buffer([&](const std::string& key, Buffer& b) {
    if (!key.ends_with("expert_bias")) return;
    const std::vector<float> values = to_host<float>(b.tensor());
    all.insert(all.end(), values.begin(), values.end());
  });
  return all;
}

std::map<std::string, std::vector<float>> state(Module& model) {
  std::map<std::string, std::vector<float>> result;
  for (const auto& [key, tensor] : model.state_dict()) result[key] = to_host<float>(tensor);
  return result;
}

const MoERoutingOptions kBothLosses{.load_balancing_coefficient = 0.1, .z_loss_coefficient = 0.01};
const MoERoutingOptions kBias{.use_expert_bias = true, .bias_update_rate = 0.01};

/// Mean entropy of the loads over the last steps of a training.
double entropy_after_training(const MoERoutingOptions& routing) {
  const auto model = language_model({.routing = routing, .skewed = true});
  SGD optimizer(model->parameters(), {});
  TrainerOptions options = steps(60);
  options.schedule.lr = 0.1;
  double sum = 0;
  Trainer(model, optimizer, Loader(tokens(), batches()), {}, options,
          {.on_step =
               [&](const StepReport& r) {
                 if (r.step > 40) sum += r.metrics.at("expert_entropy") / 20;
               }})
      .run();
  return sum;
}

}  // namespace

TEST_SUITE("nn/moe_training") {
  TEST_CASE("the loss holds what every router adds, and recomputing gives the same gradients") {
    const auto model = language_model({.routing = kBothLosses, .dropout = 0.2});
    const Batch batch = batch_of();
    const auto run = [&](bool recompute, Metrics& metrics) {
      set_recompute(*model, recompute);
      Generator rng(4);
      Context ctx{.rng = &rng, .metrics = &metrics};
      const Tensor loss = model->loss(batch.inputs, batch.targets, ctx);
      CHECK(ctx.aux_losses.size() == 4);
      backward(loss);
      Tensors all{loss};
      for (const Tensor& p : model->parameters()) all.push_back(raw::clone(grad(p)));
      for (const Tensor& aux : ctx.aux_losses) all.push_back(detach(aux));
      model->zero_grad();
      return all;
    };
    Metrics plain, again;
    const Tensors kept = run(false, plain), recomputed = run(true, again);
    REQUIRE(kept.size() == recomputed.size());
    for (size_t i = 0; i < kept.size(); ++i)
      check_close(recomputed[i], kept[i], f32, 64, "result " + std::to_string(i), 1e-4);
    // Each pass counts once.
    CHECK(plain.routing.size() == 2);
    REQUIRE(again.routing.size() == 2);
    for (const Metrics* metrics : {&plain, &again})
      for (const ExpertLoad& load : expert_loads(*model, *metrics)) {
        CHECK(load.tokens.size() == 4);
        CHECK(load.tokens[0] + load.tokens[1] + load.tokens[2] + load.tokens[3] == 64);
        CHECK(load.aux_losses.size() == 2);
      }
    // Without randomness it is inference: the loss is the cross-entropy alone.
    Context inference, training;
    Generator rng(4);
    training.rng = &rng;
    const auto without = language_model({.routing = kBothLosses});
    const double low = without->loss(batch.inputs, batch.targets, inference).item<double>();
    const double high = without->loss(batch.inputs, batch.targets, training).item<double>();
    double added = 0;
    for (const Tensor& aux : training.aux_losses) added += aux.item<double>();
    CHECK(inference.aux_losses.empty());
    CHECK(added > 0.2);
    CHECK(high - low == doctest::Approx(added).epsilon(1e-4));
  }

  TEST_CASE("an aux loss of accumulated batches weighs as its targets do") {
    // Five windows as batches of 2, 2 and 1; what a hand-written loop over sums gives.
    const TokenDataset data = tokens(41);
    const LoaderOptions small{.batch = 2, .context = 8, .shuffle = false};
    const auto trained = language_model({.routing = kBothLosses});
    const auto by_hand = language_model({.routing = kBothLosses});
    SGD first(trained->parameters(), {}), second(by_hand->parameters(), {.lr = 1});
    TrainerOptions options{.total_steps = 1, .accumulation = 3};
    options.schedule = {.kind = "constant", .lr = 1};
    StepReport report;
    Trainer(trained, first, Loader(data, small), {}, options,
            {.on_step = [&](const StepReport& r) { report = r; }})
        .run();
    Generator rng(1);
    double aux = 0, total = 0;
    for (Batch& b : Loader(data, small)) {
      Context ctx{.rng = &rng};
      const Tensor loss = by_hand->loss(b.inputs, b.targets, ctx, {.reduction = Reduction::sum});
      backward(loss);
      for (const Tensor& a : ctx.aux_losses)
        aux += a.item<double>() * double(count_targets(b.targets)) / 40;
      total += loss.item<double>() / 40;
    }
    second.step({.gradient_scale = 1.0 / 40});
    const std::vector<NamedTensor> wanted = by_hand->named_parameters();
    const Tensors got = trained->parameters();
    for (size_t i = 0; i < got.size(); ++i)
      check_close(got[i], wanted[i].second, f32, 64, wanted[i].first, 1e-3);
    CHECK(report.aux_loss == doctest::Approx(aux).epsilon(1e-5));
    CHECK(report.loss == doctest::Approx(total - aux).epsilon(1e-5));
    CHECK(report.metrics.at("load_balancing_loss") + report.metrics.at("router_z_loss") ==
          doctest::Approx(aux).epsilon(1e-5));
  }

  TEST_CASE("a small mixture learns, and metrics tell how its experts are used") {
    const TempFolder folder;
    const auto model = language_model({.routing = kBothLosses});
    AdamW optimizer(model->parameters(), {.lr = 1e-2});
    TrainerOptions options = steps(60);
    options.folder = folder.path();
    options.accumulation = 2;
    options.loads_every = 20;
    std::vector<StepReport> reports;
    Trainer(model, optimizer, Loader(tokens(), batches(2)), {}, options,
            {.on_step = [&](const StepReport& r) { reports.push_back(r); }})
        .run();
    CHECK(reports.back().loss < 0.6 * reports.front().loss);
    REQUIRE(reports[0].loads.size() == 2);
    CHECK(reports[0].loads[1].router == "blocks.1.stack.1.blocks.1.block.blocks.1.router");
    const std::vector<Json> lines = JsonLines::read(folder / "metrics.jsonl");
    REQUIRE(lines.size() == 60);
    for (const char* name : {"aux_loss", "expert_entropy", "expert_imbalance", "idle_experts",
                             "load_balancing_loss", "router_z_loss"})
      CHECK_MESSAGE(lines[0].contains(name), name);
    for (size_t i = 0; i < lines.size(); ++i)
      CHECK(lines[i].contains("experts") == ((i + 1) % 20 == 0));
    const Json& load =
        lines[19].at("experts").at("blocks.1.stack.0.blocks.1.block.blocks.1.router");
    int64_t choices = 0;
    for (const Json& n : load.at("tokens").items()) choices += n.as_int();
    CHECK(choices == 2 * 2 * 8 * 2);  // of both micro-batches
    CHECK(load.at("entropy").as_double() <= 1);
    CHECK(load.contains("load_balancing_loss"));
    CHECK(metrics_csv(lines).find("load_balancing_loss") != std::string::npos);
  }

  TEST_CASE("each way to balance makes a skewed mixture more even") {
    const double plain = entropy_after_training({});
    const double with_loss = entropy_after_training({.load_balancing_coefficient = 0.5});
    const double with_bias = entropy_after_training(kBias);
    CHECK(plain < 0.75);
    CHECK(with_loss > plain + 0.1);
    CHECK(with_bias > plain + 0.1);
  }

  TEST_CASE("the trainer moves biases as one line of a hand-written loop does") {
    const auto trained = language_model({.routing = kBias, .skewed = true});
    const auto by_hand = language_model({.routing = kBias, .skewed = true});
    AdamW first(trained->parameters(), {.lr = 1e-2}), second(by_hand->parameters(), {.lr = 1e-2});
    Trainer trainer(trained, first, Loader(tokens(), batches()), {}, steps(12));
    trainer.measure(0.001);
    CHECK(biases(*trained) == std::vector<float>(8, 0));
    trainer.run();
    Loader loader(tokens(), batches());
    Generator rng(3);
    for (int step = 0; step < 12; ++step) {
      const Batch b = loader.next();
      Metrics metrics;
      Context ctx{.rng = &rng, .metrics = &metrics};
      backward(by_hand->loss(b.inputs, b.targets, ctx));
      if (!second.step().skipped) update_expert_biases(*by_hand, metrics);
    }
    CHECK(biases(*trained) == biases(*by_hand));
    CHECK(biases(*trained) != std::vector<float>(8, 0));
    CHECK(state(*trained) == state(*by_hand));
  }

  TEST_CASE("a step that is skipped leaves the biases alone") {
    const auto model = language_model({.routing = kBias, .skewed = true});
    model->parameter("blocks.2.blocks.0.gamma").assign(full({kWidth}, NAN));
    AdamW optimizer(model->parameters(), {});
    Trainer(model, optimizer, Loader(tokens(), batches()), {}, steps(3)).run();
    CHECK(biases(*model) == std::vector<float>(8, 0));
  }

  TEST_CASE("a run that goes on ends with the same bits, biases included") {
    const TempFolder whole, halves;
    const MoERoutingOptions routing{.load_balancing_coefficient = 0.01,
                                    .z_loss_coefficient = 0.001,
                                    .use_expert_bias = true,
                                    .bias_update_rate = 0.01};
    const auto run = [&](const std::string& folder, int64_t stop_after, bool resume) {
      const auto model = language_model({.routing = routing, .dropout = 0.1});
      AdamW optimizer(decay_groups(model->parameters(), 0.1), {.lr = 1e-2, .clip_norm = 1});
      TrainerOptions options = steps(24);
      options.folder = folder;
      options.accumulation = 2;
      options.checkpoint_every = 8;
      int64_t done = 0;
      Trainer trainer(model, optimizer, Loader(tokens(), batches(2)), {}, options,
                      {.on_step = [&](const StepReport&) { ++done; },
                       .should_stop = [&] { return done >= stop_after; }});
      if (resume) trainer.resume();
      trainer.run();
      return state(*model);
    };
    const auto expected = run(whole.path(), 1000, false);
    run(halves.path(), 13, false);
    CHECK(run(halves.path(), 1000, true) == expected);
    CHECK(expected.count("blocks.1.stack.1.blocks.1.block.blocks.1.router.expert_bias") == 1);
    CHECK(read_file(Checkpoints(whole.path()).path(24) + "/model.safetensors") ==
          read_file(Checkpoints(halves.path()).path(24) + "/model.safetensors"));
    const auto a = JsonLines::read(whole / "metrics.jsonl");
    const auto b = JsonLines::read(halves / "metrics.jsonl");
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i)
      for (const auto& [name, value] : a[i].members())
        if (name != "tokens_per_second" && name != "train_seconds") CHECK(b[i].at(name) == value);
  }

  TEST_CASE("what modules report by name is in the metrics of a step") {
    class Reports final : public Module {
     public:
      Tensor forward(const Tensor& x, Context& ctx) override {
        if (ctx.metrics) ctx.metrics->values["reported"] = 2.5;
        return x;
      }
      std::string type_name() const override { return "Reports"; }
    };
    const auto model =
        Block({Embedding(kVocab, kWidth), make<Reports>(), OutputHead(kWidth, kVocab)});
    init(model);
    SGD optimizer(model->parameters(), {});
    StepReport report;
    Trainer(model, optimizer, Loader(tokens(), batches()), {}, steps(1),
            {.on_step = [&](const StepReport& r) { report = r; }})
        .run();
    CHECK(report.metrics == std::map<std::string, double>{{"reported", 2.5}});
    CHECK(report.aux_loss == 0);
    CHECK(report.loads.empty());
  }
}
