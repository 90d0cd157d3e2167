// Training, sampling and evaluation of models on a card against the CPU; nothing where there is
// none.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/engine/backend.h>
#include <olm/engine/cuda/report.h>
#include <olm/engine/file.h>
#include <olm/nn/attention.h>
#include <olm/nn/blocks.h>
#include <olm/nn/model_io.h>
#include <olm/nn/models.h>
#include <olm/nn/norms.h>
#include <olm/nn/training.h>
#include <tests/support/checks.h>
#include <tests/support/temp_folder.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kVocab = 11, kWidth = 16, kContext = 8, kSteps = 20;
constexpr double kRate = 3e-3;

bool has_card() { return cuda_backend::why_not(0).empty(); }

TokenDataset tokens(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t((i * i + i / 3) % kVocab));
  return TokenDataset::from_ids(ids, kVocab);
}

Ref<Module> dense() {
  Ref<Module> model = GPT2Model({.vocab_size = kVocab,
                                 .embed_dim = kWidth,
                                 .num_layers = 2,
                                 .num_heads = 2,
                                 .max_seq_len = kContext,
                                 .dropout = 0.1});
  init_gpt2(*model, 2, {.seed = 1});
  return model;
}

Ref<Module> mixture() {
  const MoERoutingOptions routing{.load_balancing_coefficient = 0.01,
                                  .z_loss_coefficient = 0.001,
                                  .use_expert_bias = true,
                                  .bias_update_rate = 0.001};
  const auto layer = [&] {
    return Block({Residual(Block({RMSNorm(kWidth),
                                  FlashAttentionwithRoPE(kWidth, 2, kContext, {.causal = true})})),
                  Residual(Block({RMSNorm(kWidth), SwiGLUMoEFFN({.embed_dim = kWidth,
                                                                 .num_experts = 3,
                                                                 .top_k = 2,
                                                                 .hidden_dim = 8,
                                                                 .routing = routing})}))});
  };
  Ref<Module> model =
      Block({Embedding(kVocab, kWidth), Repeat(layer, 2), OutputHead(kWidth, kVocab)});
  init_gpt2(*model, 2, {.seed = 1});
  return model;
}

struct Trained {
  Ref<Module> model;
  std::vector<StepReport> steps = {};
  std::vector<int64_t> copies = {};  // to the host, of each step
  double val_loss = 0;
};

/// Trains on a device; with `folder` from the checkpoint in it, where there is one, and up to
/// `stop`.
Trained train(Ref<Module> model, Device device, TrainerOptions options = {},
              int64_t stop = kSteps) {
  model->to(device);
  Trained result{.model = model};
  AdamW optimizer(model->parameters(), {.lr = kRate, .clip_norm = 1});
  options.total_steps = kSteps;
  options.schedule = {.lr = kRate};
  if (!options.folder.empty()) make_directories(options.folder);
  int64_t copies = copies_to_host();
  TrainerCallbacks callbacks{.on_step = [&](const StepReport& r) {
    result.copies.push_back(copies_to_host() - copies);
    copies = copies_to_host();
    result.steps.push_back(r);
  }};
  callbacks.should_stop = [&] { return int64_t(result.steps.size()) >= stop; };
  Trainer trainer(model, optimizer,
                  Loader(tokens(900), {.batch = 8, .context = kContext, .seed = 5}), tokens(100),
                  options, callbacks);
  if (!options.folder.empty() && !Checkpoints(options.folder).steps().empty()) trainer.resume();
  copies = copies_to_host();
  trainer.run();
  result.val_loss = evaluate(*model, tokens(200), kContext).loss;
  return result;
}

void check_same_curves(const Trained& card, const Trained& host) {
  REQUIRE(card.steps.size() == host.steps.size());
  for (size_t i = 0; i < host.steps.size(); ++i) {
    INFO("step ", i + 1);
    CHECK(card.steps[i].loss == doctest::Approx(host.steps[i].loss).epsilon(2e-4));
    CHECK(card.steps[i].aux_loss == doctest::Approx(host.steps[i].aux_loss).epsilon(2e-3));
    CHECK(card.steps[i].grad_norm == doctest::Approx(host.steps[i].grad_norm).epsilon(5e-3));
    CHECK(card.steps[i].tokens == host.steps[i].tokens);
  }
  CHECK(card.val_loss == doctest::Approx(host.val_loss).epsilon(2e-3));
}

}  // namespace

TEST_SUITE("nn/device") {
  TEST_CASE("a model's device is that of its parameters") {
    const Ref<Module> model = dense();
    CHECK(device_of(*model) == cpu);
    model->to(meta);
    CHECK(device_of(*model) == meta);
    CHECK(device_of(*unfilled_copy(*dense())) == meta);
  }

  TEST_CASE("a step on the CPU copies nothing") {
    for (const int64_t n : train(mixture(), cpu).copies) CHECK(n == 0);
  }

  TEST_CASE("a step on a card makes one copy to the host") {
    if (!has_card()) return;
    for (const int64_t n : train(dense(), cuda(0)).copies) CHECK(n == 1);
    TrainerOptions options{.accumulation = 2, .loads_every = 0, .spike_factor = 8};
    options.end_of_text = 3;
    for (const int64_t n : train(mixture(), cuda(0), options).copies) CHECK(n == 1);
    // Where loads of experts are due they are read too, and reported.
    options.loads_every = 10;
    const Trained due = train(mixture(), cuda(0), options);
    for (size_t i = 0; i < due.steps.size(); ++i) {
      CHECK(due.copies[i] == ((i + 1) % 10 == 0 ? 3 : 1));
      CHECK(due.steps[i].loads.empty() == ((i + 1) % 10 != 0));
    }
  }

  TEST_CASE("an evaluation on a card makes one copy to the host") {
    if (!has_card()) return;
    const Ref<Module> model = dense();
    const double host = evaluate(*model, tokens(40000), kContext).loss;
    model->to(cuda(0));
    const int64_t before = copies_to_host();
    CHECK(evaluate(*model, tokens(40000), kContext).loss == doctest::Approx(host).epsilon(1e-5));
    CHECK(copies_to_host() == before + 1);
  }

  TEST_CASE("a card follows the CPU's curve") {
    if (!has_card()) return;
    check_same_curves(train(dense(), cuda(0)), train(dense(), cpu));
    // The CPU leaves the parameters of an idle expert alone, whose gradients a card has as zeros.
    const Trained card = train(mixture(), cuda(0)), host = train(mixture(), cpu);
    for (const StepReport& r : host.steps) REQUIRE(r.metrics.at("idle_experts") == 0);
    check_same_curves(card, host);
    CHECK(card.steps.back().loads[0].tokens == host.steps.back().loads[0].tokens);
  }

  TEST_CASE("a step in which a card met a bad index changes nothing") {
    if (!has_card()) return;
    const Ref<Module> model = mixture();
    model->to(cuda(0));
    AdamW optimizer(model->parameters(), {.lr = kRate});
    const auto step = [&](int64_t id, int64_t target) {
      Context ctx;
      backward(model->loss(full({1, 4}, double(id), {.dtype = i64, .device = cuda(0)}),
                           full({1, 4}, double(target), {.dtype = i64, .device = cuda(0)}), ctx));
      optimizer.step();
    };
    step(1, 2);
    const auto weights = [&] {
      Tensors copies;
      for (const Tensor& p : model->parameters()) copies.push_back(raw::clone(p));
      for (const auto& [key, t] : optimizer.state_dict()) copies.push_back(raw::clone(t));
      return copies;
    };
    const Tensors before = weights();
    check_error([&] { step(kVocab, 2); }, {"embedding: index 11 at position"});
    optimizer.zero_grad();
    check_error([&] { step(1, kVocab); }, {"cross_entropy: index 11 at position"});
    optimizer.zero_grad();
    const Tensors after = weights();
    for (size_t i = 0; i < before.size(); ++i) check_same_bits(after[i], before[i], "a weight");
    step(1, 2);
    CHECK(optimizer.steps() == 2);
  }

  TEST_CASE("a run on a card stops and goes on with the same bits") {
    if (!has_card()) return;
    for (const auto make : {dense, mixture}) {
      const TempFolder whole_folder, parts_folder;
      const Trained whole = train(make(), cuda(0), {.folder = whole_folder / "run"});
      const Trained first = train(make(), cuda(0), {.folder = parts_folder / "run"}, 9);
      CHECK(first.steps.size() == 9);
      const Trained rest = train(make(), cuda(0), {.folder = parts_folder / "run"});
      CHECK(rest.steps.size() == size_t(kSteps) - 9);
      CHECK(rest.steps.back().loss == whole.steps.back().loss);
      for (const auto& [key, tensor] : whole.model->state_dict())
        for (const auto& [other, same] : rest.model->state_dict())
          if (key == other) check_same_bits(raw::to(same, cpu), raw::to(tensor, cpu), key);
      // And on the CPU, where it goes on from the same weights.
      CHECK(train(make(), cpu, {.folder = parts_folder / "run"}).val_loss ==
            doctest::Approx(whole.val_loss).epsilon(1e-4));
    }
  }

  TEST_CASE("a model on a card continues prompts as on the CPU, with and without a cache") {
    if (!has_card()) return;
    for (const auto make : {dense, mixture}) {
      const Ref<Module> model = train(make(), cpu).model;
      const std::vector<std::vector<int32_t>> prompts{{1, 2, 3}, {4, 5, 6}, {7}};
      GenerateOptions options{.tokens = 12, .temperature = 0, .context = kContext};
      const std::vector<Generated> host = generate_batch(*model, prompts, options);
      model->to(cuda(0));
      for (const bool use_cache : {true, false}) {
        options.use_cache = use_cache;
        const std::vector<Generated> card = generate_batch(*model, prompts, options);
        for (size_t i = 0; i < prompts.size(); ++i) CHECK(card[i].ids == host[i].ids);
      }
      const int64_t before = copies_to_host();
      generate(*model, prompts[0], {.tokens = 4, .context = kContext});
      CHECK(copies_to_host() == before + 4);
    }
  }

  TEST_CASE("a saved model is loaded onto a device") {
    const TempFolder folder;
    const Ref<Module> model = dense();
    save(*model, folder / "model");
    CHECK(device_of(*load(folder / "model", meta)) == meta);
    if (!has_card()) {
      check_error([&] { load(folder / "model", cuda(0)); }, {"cuda:0", cuda_backend::why_not(0)});
      return;
    }
    const Ref<Module> loaded = load(folder / "model", cuda(0));
    CHECK(device_of(*loaded) == cuda(0));
    check_same_bits(raw::to(loaded->parameters()[0], cpu), model->parameters()[0], "embedding");
  }
}
