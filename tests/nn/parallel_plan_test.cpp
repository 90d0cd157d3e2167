// Plans against what ranks do, and against figures made by hand.
#include <doctest/doctest.h>

#include <algorithm>

#include <olm/autograd/tape.h>
#include <olm/engine/allocator.h>
#include <olm/nn/linear.h>
#include <olm/nn/models.h>
#include <olm/nn/parallel_plan.h>
#include <olm/nn/structure.h>
#include <tests/support/checks.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr double kMB = 1e6;

DecoderConfig small() {
  return {.family = "gpt2",
          .vocab_size = 200,
          .embed_dim = 64,
          .num_layers = 3,
          .num_heads = 4,
          .max_seq_len = 32,
          .dropout = 0.1};
}

DecoderConfig mixture() {
  return {.family = "mixtral",
          .vocab_size = 100,
          .embed_dim = 32,
          .num_layers = 2,
          .num_heads = 4,
          .num_kv_heads = 2,
          .max_seq_len = 16,
          .dropout = 0};
}

/// A step of a model's loss on constant ids, on one of the ranks.
void train_a_step(Module& model, DataParallel& parallel, int64_t batch, int64_t context) {
  const Tensor ids = full({batch, context}, 1, {.dtype = i64});
  for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
    Generator rng(uint64_t(i) + 1);
    Context ctx{.rng = &rng};
    parallel.backward(model.loss(ids, ids, ctx), ids.numel(), ctx.aux_losses);
  }
  parallel.step();
}

struct Arrangement {
  int ranks;
  DataParallelOptions parallel;
  int64_t expert_ranks = 1;
  bool frozen = false;  // all layers but the head
  bool muon = false;
};

/// Each rank sends in a step what was planned of it.
void check_sent(const DecoderConfig& config, const Arrangement& a) {
  const ModelConfig whole(config);
  run_ranks(a.ranks, [&](const dist::Comm& world) {
    const Ref<BlockModule> model = whole.make();
    whole.init(*model, {.seed = 1});
    if (a.frozen) model->freeze("blocks.1");
    std::unique_ptr<Optimizer> optimizer;
    if (a.muon)
      optimizer = std::make_unique<Muon>(muon_groups(*model, 0.1));
    else
      optimizer = std::make_unique<AdamW>(model->parameters());
    const ParallelPlanOptions options{.ranks = a.ranks,
                                      .rank = world.rank(),
                                      .batch = 2,
                                      .context = config.max_seq_len,
                                      .optimizer = a.muon ? optimizer.get() : nullptr,
                                      .expert_ranks = a.expert_ranks,
                                      .parallel = a.parallel};
    const ParallelPlan plan = parallel_plan(*model, options);
    CHECK((plan.update_flops > 0) == a.muon);
    std::shared_ptr<ExpertParallel> experts;
    if (a.expert_ranks > 1) experts = spread_experts(*model, a.expert_ranks, world);
    DataParallelOptions how = a.parallel;
    how.order = model->parameters();
    DataParallel parallel(*optimizer, how, world, experts);
    INFO("rank ", world.rank(), " of ", a.ranks, ", zero ", a.parallel.zero);
    CHECK(plan.micro_batches == parallel.end() - parallel.begin());
    const int64_t before = world.traffic().bytes_sent;
    train_a_step(*model, parallel, options.batch, options.context);
    const auto sent = double(world.traffic().bytes_sent - before);
    const ParallelCost cost = parallel.cost();
    CHECK(double(cost.bytes_sent) == plan.sent.total() - plan.sent.tokens);
    if (a.expert_ranks == 1) CHECK(sent == plan.sent.total());
    CHECK(double(cost.moment_bytes) == plan.memory.moments);
    CHECK(cost.buckets == plan.buckets);
  });
}

}  // namespace

TEST_SUITE("nn/parallel_plan") {
  TEST_CASE("ranks send what was planned") {
    for (const int64_t zero : {0, 1}) {
      check_sent(small(), {2, {.micro_batches = 2, .zero = zero, .bucket_mb = 0.1}});
      check_sent(small(), {3, {.micro_batches = 5, .zero = zero, .bucket_mb = 0.3}});
      check_sent(small(), {2, {.micro_batches = 2, .zero = zero, .wire = bf16}});
    }
    // So many parameters that what ranks tell of each of them does not fit one message.
    DecoderConfig deep = small();
    deep.num_layers = 30;
    deep.embed_dim = 8;
    check_sent(deep, {.ranks = 2, .parallel = {.micro_batches = 2}, .frozen = true});
    for (const bool muon : {false, true})
      check_sent(mixture(), {.ranks = 4,
                             .parallel = {.micro_batches = 4, .bucket_mb = 0.1},
                             .expert_ranks = 2,
                             .muon = muon});
    check_sent(small(), {.ranks = 3, .parallel = {.micro_batches = 3}, .muon = true});
  }

  TEST_CASE("memory is that of a real step") {
    for (const bool deterministic : {true, false})
      for (const int64_t micro_batches : {1, 3, 4}) {
        DecoderConfig config = small();
        config.embed_dim = 128;
        config.vocab_size = 1000;
        const ModelConfig whole(config);
        const Ref<BlockModule> model = whole.make();
        const size_t before = memory_stats().in_use;
        whole.init(*model, {.seed = 1});
        const DataParallelOptions how{.micro_batches = micro_batches,
                                      .deterministic = deterministic};
        const ParallelPlan plan =
            parallel_plan(*model, {.batch = 8, .context = config.max_seq_len, .parallel = how});
        AdamW optimizer(model->parameters());
        DataParallel parallel(optimizer, how, dist::Comm());
        train_a_step(*model, parallel, 8, config.max_seq_len);
        reset_peak_memory();
        train_a_step(*model, parallel, 8, config.max_seq_len);
        const auto peak = double(memory_stats().peak - before);
        INFO(micro_batches, " micro-batches: ", peak, " bytes, planned ", plan.memory.total());
        CHECK(plan.memory.total() > 0.95 * peak);
        CHECK(plan.memory.total() < 1.05 * peak);
      }
  }

  TEST_CASE("figures of a known model") {
    // Of 1000 x 1000 weights; everything else is small beside them.
    const auto layer = [] { return Linear(1000, 1000, {.bias = false}); };
    const Ref<BlockModule> model = Block({Embedding(10, 1000), Repeat(layer, 8), layer()});
    const double weights = 4 * (10e3 + 9e6);
    ParallelPlanOptions o{.ranks = 4, .batch = 1, .context = 1, .parallel = {.micro_batches = 8}};
    o.parallel.bucket_mb = 1;
    const ParallelPlan plan = parallel_plan(*model, o);
    CHECK(plan.parameters == 9010000);
    CHECK(plan.micro_batches == 2);
    CHECK(plan.tokens == 8);
    CHECK(plan.buckets == 10);
    CHECK(plan.model_flops == 2 * 3 * 2 * 9e6);
    CHECK(plan.memory.weights == weights);
    CHECK(plan.memory.moments == doctest::Approx(2 * weights / 4).epsilon(0.02));
    // Of the first micro-batch all; those of the second are added and leave as they come.
    const nn::RankMemory& m = plan.memory;
    CHECK(m.gradients + m.kept_gradients + m.buckets > weights);
    CHECK(m.gradients + m.kept_gradients + m.buckets < 1.6 * weights);
    CHECK(plan.sent.gradients == doctest::Approx(0.75 * weights).epsilon(0.02));
    CHECK(plan.sent.weights == doctest::Approx(0.75 * weights).epsilon(0.05));
    CHECK(plan.sent.tokens == 0);
    CHECK(plan.sent.news < 1e4);

    o.under_way = 10;
    CHECK(parallel_plan(*model, o).memory.total() > plan.memory.total() + 3 * kMB);
    o.under_way = 2;
    o.parallel.wire = bf16;
    CHECK(parallel_plan(*model, o).sent.gradients == plan.sent.gradients / 2);
    o.parallel = {.micro_batches = 8, .zero = 0};
    const ParallelPlan whole = parallel_plan(*model, o);
    CHECK(whole.memory.moments == 2 * weights);
    CHECK(whole.sent.gradients == doctest::Approx(1.5 * weights).epsilon(0.02));
    CHECK(whole.sent.weights == 0);
    CHECK(whole.updated_parameters == plan.parameters);
    o.parallel = {.micro_batches = 16};
    // Of a rank's four a sum of two, and the third.
    CHECK(parallel_plan(*model, o).memory.kept_gradients == weights);
    set_recompute(*model, true);
    CHECK(parallel_plan(*model, o).flops == (3 * 9 + 8) * 4 * 2e6);
  }

  TEST_CASE("of small buckets and many ranks few are busy") {
    // Nine buckets, each of a million elements, which are 31 blocks: of 100 ranks as many own one.
    const auto layer = [] { return Linear(1000, 1000, {.bias = false}); };
    const Ref<BlockModule> model = Block({Embedding(10, 1000), Repeat(layer, 8), layer()});
    ParallelPlanOptions o{
        .ranks = 100, .batch = 1, .context = 1, .parallel = {.micro_batches = 100}};
    o.parallel.bucket_mb = 1;
    const ParallelPlan small = parallel_plan(*model, o);
    const double block = 4 * 32768 * 99;
    CHECK(small.busiest.gradients >= 3 * block);  // four buckets at a time, of other ranks each
    CHECK(small.busiest.gradients <= 9 * block);
    CHECK(small.busiest.weights == small.busiest.gradients);
    CHECK(small.busiest.messages <= 9 * 99);
    CHECK(small.sent.weights > 2 * block);  // of the rank that owns most
    o.rank = 0;
    CHECK(parallel_plan(*model, o).sent.weights <= small.sent.weights);
    o.parallel.bucket_mb = 100;
    CHECK(parallel_plan(*model, o).busiest.gradients < small.busiest.gradients);
    o.parallel.zero = 0;  // of an even part of each bucket, sums and back
    const ParallelPlan even = parallel_plan(*model, o);
    CHECK(even.busiest.gradients == doctest::Approx(even.sent.gradients).epsilon(0.01));
    CHECK(even.busiest.weights == 0);
    CHECK(even.busiest.messages == 2 * 99);
  }

  TEST_CASE("where a rank owns matrices as a whole, the plan is of the one with most to do") {
    const ModelConfig whole(DecoderConfig{.family = "llama",
                                          .vocab_size = 1000,
                                          .embed_dim = 64,
                                          .num_layers = 3,
                                          .num_heads = 4,
                                          .max_seq_len = 32});
    const Ref<BlockModule> model = whole.make();
    model->to(meta);
    const Muon optimizer(muon_groups(*model, 0.1));
    for (const int64_t ranks : {3, 4}) {
      ParallelPlanOptions o{.ranks = ranks,
                            .context = 32,
                            .optimizer = &optimizer,
                            .parallel = {.micro_batches = ranks, .zero = 0}};
      const double all = parallel_plan(*model, o).update_flops;
      o.parallel.zero = 1;
      const ParallelPlan plan = parallel_plan(*model, o);
      double moments = 0;
      for (o.rank = 0; *o.rank < ranks; ++*o.rank)
        moments = std::max(moments, parallel_plan(*model, o).memory.moments);
      INFO(ranks, " ranks");
      CHECK(plan.memory.moments == moments);
      CHECK(plan.update_flops >= all / double(ranks));
      CHECK(plan.update_flops < all);
    }
  }

  TEST_CASE("experts are spread") {
    const Ref<BlockModule> model = ModelConfig(mixture()).make();
    ParallelPlanOptions o{.ranks = 4, .batch = 2, .context = 16, .parallel = {.micro_batches = 4}};
    const ParallelPlan dense = parallel_plan(*model, o);
    o.expert_ranks = 2;
    const ParallelPlan spread = parallel_plan(*model, o);
    int64_t experts = 0;
    model->for_each_parameter([&](const std::string& key, Parameter& p) {
      if (key.find(".experts.") != std::string::npos) experts += p.shape().numel();
    });
    CHECK(experts > 0);
    CHECK(dense.rank_parameters == model->num_parameters());
    CHECK(spread.parameters == model->num_parameters());
    CHECK(spread.rank_parameters == model->num_parameters() - experts / 2);
    CHECK(dense.sent.tokens == 0);
    // 32 tokens, two layers, two experts, there and back, in both passes; half stay.
    CHECK(spread.sent.tokens == 32 * 2 * 2 * 2 * 2 * 32 * 4 / 2);
    CHECK(spread.sent.gradients < dense.sent.gradients);
    o.expert_ranks = 3;
    CHECK_THROWS_WITH(parallel_plan(*model, o), doctest::Contains("3 ranks do not divide 4"));
    o = {.ranks = 2, .expert_ranks = 2, .parallel = {.micro_batches = 5}};
    CHECK_THROWS_WITH(parallel_plan(*model, o), doctest::Contains("same number of micro-batches"));
    o = {.ranks = 5, .parallel = {.micro_batches = 5}};
    o.expert_ranks = 5;
    CHECK_THROWS_WITH(parallel_plan(*model, o), doctest::Contains("do not divide the 8 experts"));
    CHECK_THROWS_WITH(parallel_plan(*ModelConfig(small()).make(), o),
                      doctest::Contains("without experts"));
  }

  TEST_CASE("the largest batch fits, and the next one does not") {
    const Ref<BlockModule> model = ModelConfig(small()).make();
    const ParallelPlanOptions o{.context = 32};
    const auto bytes = [&](int64_t batch) {
      ParallelPlanOptions with = o;
      with.batch = batch;
      return parallel_plan(*model, with).memory.total();
    };
    const int64_t batch = largest_batch(*model, o, 50 * kMB);
    CHECK(batch > 1);
    CHECK(bytes(batch) <= 50 * kMB);
    CHECK(bytes(batch + 1) > 50 * kMB);
    CHECK(largest_batch(*model, o, bytes(1) - 1) == 0);
    CHECK(largest_batch(*model, o, bytes(1)) == 1);
    CHECK(largest_batch(*model, o, bytes(700000)) == 700000);
    CHECK(largest_batch(*model, o, 1e30) == 1000000);
  }

  TEST_CASE("the time of a step") {
    ParallelPlan plan{.ranks = 16, .micro_batches = 2, .buckets = 10};
    plan.flops = 6e12;
    plan.update_bytes = 1e9;
    plan.sent.gradients = 15e9;
    plan.sent.weights = 3e9;
    plan.busiest.messages = 150;
    const RankSpeed speed{.matrix_flops = 2e12,
                          .share = 0.5,
                          .memory_bytes = 2e9,
                          .link_bytes = 1e9,
                          .local_bytes = 4e9,
                          .ranks_per_machine = 4};
    const StepTime t = step_time(plan, speed);
    CHECK(t.compute == 6);
    CHECK(t.update == 0.5);
    // 12 of 15 others are elsewhere. Two seconds of backward hide gradients, half a second of the
    // update weights.
    CHECK(t.communication == doctest::Approx(12 + 2.4));
    CHECK(t.exposed == doctest::Approx(10 + 1.9));
    CHECK(t.seconds() == doctest::Approx(6 + 0.5 + 11.9));
    CHECK(buckets_under_way(plan, speed) == 9);  // 2 of 12 seconds are hidden
    RankSpeed fast = speed;
    fast.link_bytes = 1e12;
    fast.local_bytes = 1e13;
    const StepTime hidden = step_time(plan, fast);  // but for the last bucket
    CHECK(hidden.exposed == doctest::Approx(hidden.communication / 10));
    CHECK(buckets_under_way(plan, fast) == 2);
    fast.message_seconds = 1;  // 15 messages of each bucket, twice
    CHECK(step_time(plan, fast).communication == 300);
    plan.busiest.gradients = 30e9;  // of a rank that receives more than this one sends
    CHECK(step_time(plan, speed).communication == doctest::Approx(24 + 2.4));
    fast.link_bytes = 0;
    CHECK_THROWS_WITH(step_time(plan, fast), doctest::Contains("link_bytes"));
  }

  TEST_CASE("what cannot be is refused") {
    const Ref<BlockModule> model = ModelConfig(small()).make();
    CHECK_THROWS_WITH(
        parallel_plan(*model, {.ranks = 3, .context = 8, .parallel = {.micro_batches = 2}}),
        doctest::Contains("3 ranks want at least as many micro-batches in a step, got 2"));
    CHECK_THROWS_WITH(
        parallel_plan(*model, {.ranks = 2, .expert_ranks = 2, .parallel = {.micro_batches = 2}}),
        "parallel_plan: a model without experts cannot spread them over 2 ranks");
    CHECK_THROWS_AS(parallel_plan(*model, {.context = 33}), Error);
    CHECK_THROWS_WITH(parallel_plan(*model, {.rank = 1, .context = 8}), doctest::Contains("got 1"));
    CHECK_THROWS_WITH(parallel_plan(*model, {.batch = int64_t(1) << 40,
                                             .context = 32,
                                             .parallel = {.micro_batches = int64_t(1) << 20}}),
                      doctest::Contains("tokens, got"));
  }
}
