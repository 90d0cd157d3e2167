// Training on ranks: the bits of one process, in parameters, moments and what steps report.
#include <doctest/doctest.h>

#include <algorithm>

#include <olm/autograd/tape.h>
#include <olm/engine/raw.h>
#include <olm/nn/parallel.h>
#include <tests/support/checks.h>
#include <tests/support/rank_training.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr double kTiny = 1e-4;  // MiB of a bucket: smaller than most parameters

/// The same steps without DataParallel, on one rank.
RankResult train_plainly(const RankTraining& made, int64_t steps) {
  RankResult result;
  const auto model = make_rank_model(made, 7);
  const auto owned = make_rank_optimizer(made, *model);
  Optimizer& optimizer = *owned;
  const int64_t m = made.parallel.micro_batches;
  for (int64_t step = 0; step < steps; ++step) {
    int64_t targets = 0;
    for (int64_t i = 0; i < m; ++i) {
      const RankLoss l = rank_loss(*model, made, step * m + i);
      optimizer.add_loss(l.loss, l.aux, l.targets);
      BackwardOptions how;
      if (m > 1) how.gradient = full({}, double(l.targets), options_of(l.loss));
      backward(l.loss, how);
      targets += l.targets;
    }
    result.steps.push_back(optimizer.step({.gradient_scale = m > 1 ? 1 / double(targets) : 1}));
    result.targets.push_back(targets);
  }
  result.state = optimizer.state_dict();
  for (const auto& [key, p] : model->named_parameters()) result.state[key] = p;
  return result;
}

}  // namespace

TEST_SUITE("nn/parallel") {
  TEST_CASE("any number of ranks has the bits of one") {
    for (RankTraining made : std::vector<RankTraining>{
             {.name = "dense"},
             {.name = "bf16 activations", .activations = bf16},
             {.name = "bf16", .parameters = bf16, .activations = bf16},
             {.name = "frozen", .frozen = true},
             {.name = "without targets", .gaps = true},
             {.name = "experts", .experts = true},
             {.name = "muon", .muon = true},
             {.name = "muon in bf16", .muon = true, .parameters = bf16, .activations = bf16}}) {
      CAPTURE(made.name);
      const RankResult one = train_on_ranks(made, 1);
      CHECK(one.steps[2].grad_norm > 0.5);
      if (made.gaps) {
        CHECK(one.targets[1] == 0);
        CHECK(one.steps[1].loss == 0);
        CHECK(one.steps[1].grad_norm == 0);
        CHECK_FALSE(one.steps[1].skipped);
      }
      for (const auto& [ranks, zero, bucket_mb] : std::vector<std::tuple<int, int, double>>{
               {2, 1, 25}, {2, 0, 25}, {3, 1, 0.05}, {4, 1, kTiny}, {4, 0, kTiny}, {8, 1, 0.05}}) {
        CAPTURE(ranks);
        CAPTURE(zero);
        CAPTURE(bucket_mb);
        made.parallel.zero = zero;
        made.parallel.bucket_mb = bucket_mb;
        check_same(train_on_ranks(made, ranks), one);
      }
    }
  }

  TEST_CASE("ranks may have different numbers of micro-batches") {
    // Of five, four ranks have 1, 1, 2 and 1: ((0 + 1) + (2 + 3)) + 4.
    RankTraining made{.parallel = {.micro_batches = 5}};
    const RankResult one = train_on_ranks(made, 1);
    for (const int64_t zero : {0, 1}) {
      made.parallel.zero = zero;
      check_same(train_on_ranks(made, 4), one);
    }
  }

  TEST_CASE("many ranks, of which most own nothing, have the bits of one") {
    RankTraining made{.parallel = {.micro_batches = 27}};
    const RankResult one = train_on_ranks(made, 1, 1);
    for (const int64_t zero : {0, 1}) {
      made.parallel.zero = zero;
      check_same(train_on_ranks(made, 24, 1), one);
    }
  }

  TEST_CASE("parameters in bf16 learn what those in f32 do") {
    const RankResult exact = train_on_ranks({.activations = bf16}, 1, 6);
    const RankResult half = train_on_ranks({.parameters = bf16, .activations = bf16}, 2, 6);
    for (size_t step = 0; step < 6; ++step)
      CHECK(half.steps[step].loss == doctest::Approx(exact.steps[step].loss).epsilon(0.005));
    CHECK(half.steps[5].loss < half.steps[0].loss - 0.1);
    for (const auto& [name, tensor] : half.state)
      CHECK(tensor.dtype() == (name.starts_with("blocks")            ? bf16
                               : name.find('.') == std::string::npos ? i64
                                                                     : f32));
  }

  TEST_CASE("experts that are idle or spread over ranks have the bits of one rank") {
    for (const bool muon : {false, true}) {
      RankTraining made{.experts = true, .muon = muon};
      const RankResult one = train_on_ranks(made, 1);
      // Some experts had no token in some step, on any rank.
      const auto missed = to_host<int64_t>(one.state.at("missed"));
      CHECK(*std::max_element(missed.begin(), missed.end()) > 0);
      for (const auto& [ranks, spread, zero] : std::vector<std::tuple<int, int, int>>{
               {2, 2, 1}, {4, 2, 1}, {4, 2, 0}, {8, 2, 1}, {4, 4, 1}}) {
        CAPTURE(ranks);
        CAPTURE(spread);
        CAPTURE(zero);
        made.spread = spread;
        made.parallel.zero = zero;
        made.parallel.bucket_mb = 0.02;
        check_same(train_on_ranks(made, ranks), one);
      }
    }
  }

  TEST_CASE("steps of one micro-batch have the bits of backward and step") {
    for (const bool deterministic : {true, false}) {
      const RankTraining made{.parallel = {.micro_batches = 1, .deterministic = deterministic}};
      check_same(train_on_ranks(made, 1), train_plainly(made, 3));
    }
    // Gradients that are added in the leaf are those of several calls of backward.
    const RankTraining made{.parallel = {.micro_batches = 5, .deterministic = false}};
    check_same(train_on_ranks(made, 1), train_plainly(made, 3));
  }

  TEST_CASE("sums are those of f64, also of parameters in f64") {
    RankTraining made{.parameters = f64, .activations = f64};
    const RankResult exact = train_plainly(made, 3);
    check_near(train_on_ranks(made, 3), exact, 1e-9);
    made.parallel.wire = bf16;  // f64 travels as it is
    check_near(train_on_ranks(made, 2), exact, 1e-9);
    check_near(train_on_ranks({}, 4), exact, 2e-3);
  }

  TEST_CASE("gradients in bf16, and sums in any order, are near") {
    const RankResult exact = train_on_ranks({}, 1);
    for (const int64_t zero : {0, 1}) {
      RankTraining made{.parallel = {.micro_batches = 8, .zero = zero, .wire = bf16}};
      const RankResult narrow = train_on_ranks(made, 2);
      check_near(narrow, exact, 3e-2);
      CHECK(narrow.steps[2].grad_norm != exact.steps[2].grad_norm);
      made.parallel.wire = f32;
      made.parallel.deterministic = false;
      check_near(train_on_ranks(made, 4), exact, 1e-2);
    }
  }

  TEST_CASE("one bad gradient skips the step of all, who name its parameter") {
    for (const int64_t zero : {0, 1}) {
      RankTraining made{.bad_micro_batch = 8 + 5, .bad_parameter = 3};
      made.parallel.zero = zero;
      const RankResult one = train_on_ranks(made, 1), four = train_on_ranks(made, 4);
      CHECK(one.steps[1].skipped);
      CHECK_FALSE(one.steps[2].skipped);
      const auto model = make_rank_model(made, 7);
      const AdamW optimizer(decay_groups(model->parameters(), 0.1));
      REQUIRE(four.steps[1].first_bad >= 0);
      CHECK(
          optimizer.parameters()[size_t(four.steps[1].first_bad)].is_same(model->parameters()[3]));
      for (const auto& [name, tensor] : one.state)
        check_same_bits(four.state.at(name), tensor, name);
    }
  }

  TEST_CASE("losses and norms above a limit skip the step of all") {
    RankTraining made{.how = {.skip_loss_above = 1}};
    RankResult result = train_on_ranks(made, 2, 1);
    CHECK(result.steps[0].skipped);
    CHECK(result.steps[0].loss > 1);
    made.how = {.skip_above = 0.1};
    CHECK(train_on_ranks(made, 2, 1).steps[0].skipped);
    // What a caller says of the scale has no effect.
    made.how = {.gradient_scale = 100};
    check_same(train_on_ranks(made, 2), train_on_ranks({}, 1));
  }

  TEST_CASE("a run goes on with the same bits on another number of ranks") {
    const RankTraining made{};
    const RankResult whole = train_on_ranks(made, 1, 4), half = train_on_ranks(made, 2, 2);
    run_ranks(4, [&](const dist::Comm& world) {
      const auto model = make_rank_model(made, 8);
      std::vector<NamedTensor> values;
      std::map<std::string, Tensor> moments;
      for (const auto& [name, tensor] : half.state)
        if (name.starts_with("blocks"))
          values.emplace_back(name, tensor);
        else
          moments[name] = tensor;
      model->load_state_dict(values);
      const auto owned = make_rank_optimizer(made, *model);
      Optimizer& optimizer = *owned;
      optimizer.load_state_dict(moments);  // whole moments are cut
      DataParallel parallel(optimizer, made.parallel, world);
      optimizer.load_state_dict(moments);  // and parts taken of them
      for (int64_t step = 2; step < 4; ++step) {
        run_micro_batches(parallel, *model, made, step);
        CHECK(parallel.step().loss == whole.steps[size_t(step)].loss);
      }
      for (const auto& [key, p] : model->named_parameters())
        CHECK(to_host<float>(p) == to_host<float>(whole.state.at(key)));
    });
  }
}
