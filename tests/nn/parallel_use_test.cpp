// DataParallel in use: what it refuses, forgets, costs, and does while backward runs.
#include <doctest/doctest.h>

#include <cmath>
#include <mutex>

#include <olm/autograd/tape.h>
#include <olm/engine/allocator.h>
#include <olm/engine/raw.h>
#include <olm/nn/parallel.h>
#include <tests/support/checks.h>
#include <tests/support/rank_training.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kBlock = kernels::kNormBlock;

/// The sentence with which all ranks refuse to begin; the same on all.
std::string refusal(int ranks, const std::function<void(const dist::Comm&)>& begin) {
  std::vector<std::string> texts(size_t(ranks), "");
  run_ranks(ranks, [&](const dist::Comm& world) {
    try {
      begin(world);
    } catch (const Error& e) {
      texts[size_t(world.rank())] = e.what();
    }
  });
  for (const std::string& text : texts) CHECK(text == texts[0]);
  return texts[0];
}

}  // namespace

TEST_SUITE("nn/parallel") {
  TEST_CASE("ranks that differ are told in what, and who") {
    const auto begin = [](const dist::Comm& world, DataParallelOptions options, const Shape& shape,
                          bool frozen = false) {
      const Tensor a = ones(shape), b = ones({4});
      for (const Tensor& p : {a, b}) set_requires_grad(p, !frozen);
      AdamW optimizer({a, b});
      DataParallel parallel(optimizer, options, world);
    };
    const DataParallelOptions four{.micro_batches = 4};
    CHECK(refusal(3, [&](const dist::Comm& w) { begin(w, four, {2, 3}); }).empty());
    CHECK(
        refusal(3,
                [&](const dist::Comm& w) {
                  begin(w, {.micro_batches = w.rank() == 1 ? 8 : 4}, {2});
                }) ==
        "DataParallel: ranks disagree on micro-batches of a step: 4 on ranks 0 and 2, 8 on rank 1");
    CHECK(refusal(2, [&](const dist::Comm& w) { begin(w, four, {2 + w.rank()}); }) ==
          "DataParallel: ranks disagree on parameter 0: f32 [2] on rank 0, f32 [3] on rank 1");
    CHECK(
        refusal(2, [&](const dist::Comm& w) { begin(w, four, {2}, w.rank() == 1); }) ==
        "DataParallel: ranks disagree on parameter 0: f32 [2] on rank 0, frozen f32 [2] on rank 1");
    CHECK(refusal(2, [&](const dist::Comm& w) {
            begin(w, {.micro_batches = 4, .deterministic = w.rank() == 0}, {2});
          }) == "DataParallel: ranks disagree on deterministic: true on rank 0, false on rank 1");
    CHECK(refusal(2, [&](const dist::Comm& w) {
            const Tensors p = make_leaves(2, {2});
            AdamW optimizer(p, {.clip_norm = 1.0 + w.rank()});
            DataParallel parallel(optimizer, four, w);
          }).find("options of the optimizer: ") != std::string::npos);
    CHECK(refusal(2, [&](const dist::Comm& w) {
            const Tensors p = make_leaves(2, {2, 2});
            AdamW optimizer(decay_groups(p, 0.1 * w.rank()));
            DataParallel parallel(optimizer, four, w);
          }).find("1x 0 on rank 0") != std::string::npos);
    CHECK(refusal(2, [&](const dist::Comm& w) {
            const Tensors p = make_leaves(1 + w.rank(), {2});
            AdamW optimizer(p);
            DataParallel parallel(optimizer, four, w);
          }).find("the number of parameters: 1 on rank 0, 2 on rank 1") != std::string::npos);
    CHECK(refusal(2, [&](const dist::Comm& w) {
            const Tensors p = {ones({2}), ones({2 + 1})};
            for (const Tensor& t : p) set_requires_grad(t);
            SGD sgd(p);
            AdamW adamw(p);
            DataParallel parallel(w.rank() == 0 ? static_cast<Optimizer&>(sgd) : adamw, four, w);
          }).find("the optimizer: SGD on rank 0, AdamW on rank 1") != std::string::npos);
    CHECK(refusal(3, [&](const dist::Comm& w) { begin(w, {.micro_batches = 2}, {2}); }) ==
          "DataParallel: 3 ranks want at least as many micro-batches in a step, got 2; take more "
          "micro-batches, smaller ones, or fewer ranks");
  }

  TEST_CASE("options that make no sense, and calls out of turn, are refused") {
    const Tensors p = make_leaves(1, {2});
    SGD optimizer(p, {.lr = 1});
    const auto refused = [&](DataParallelOptions options, const std::vector<std::string>& parts) {
      check_error([&] { DataParallel(optimizer, options, dist::Comm()); }, parts);
    };
    refused({.zero = 2}, {"zero", "2"});
    refused({.micro_batches = 0}, {"micro-batch", "0"});
    refused({.bucket_mb = 0}, {"bucket_mb", "0"});
    refused({.wire = f16}, {"wire", "f16"});
    DataParallel parallel(optimizer, {.micro_batches = 2}, dist::Comm());
    CHECK(parallel.begin() == 0);
    CHECK(parallel.end() == 2);
    check_error([&] { parallel.step(); }, {"0 of the 2 micro-batches"});
    check_error([&] { parallel.backward(ones({2}), 1); }, {"scalar", "[2]"});
    check_error([&] { parallel.backward(ones({}), -1); }, {"targets", "-1"});
    for (int i = 0; i < 2; ++i) parallel.backward(chain_of(p), 1);
    check_error([&] { parallel.backward(chain_of(p), 1); }, {"all 2 micro-batches", "step()"});
    parallel.step();
    CHECK(to_host<float>(p[0]) == std::vector<float>{-0.5, -0.5});
  }

  TEST_CASE("without a gradient on any rank a step only reports the loss") {
    run_ranks(2, [](const dist::Comm& world) {
      const Tensors p = make_leaves(1, {2});
      const Tensor other = make_leaves(1, {1})[0];
      AdamW optimizer(p);
      DataParallel parallel(optimizer, {.micro_batches = 2}, world);
      for (int step = 0; step < 2; ++step) {
        parallel.backward(chain_of({other}), 3);
        const StepInfo info = parallel.step();
        CHECK_FALSE(info.skipped);
        CHECK(info.loss == 0);
        CHECK(parallel.targets() == 6);
        CHECK(optimizer.steps() == 0);
      }
    });
  }

  TEST_CASE("gradients of other backward passes are not its own") {
    const Tensors p = make_leaves(2, {3});
    SGD optimizer(p, {.lr = 1});
    {
      DataParallel parallel(optimizer, {.micro_batches = 2}, dist::Comm());
      parallel.backward(chain_of(p), 1);
      CHECK_FALSE(grad(p[0]).defined());
      backward(chain_of({p[0]}));
      CHECK(to_host<float>(grad(p[0]))[0] == 0.5F);
      zero_grad(p[0]);
      parallel.backward(chain_of(p), 1);
      parallel.step();
      CHECK(to_host<float>(p[0])[0] == -0.5F);
    }
    // After it, too, and beside another of the same parameters.
    backward(chain_of(p));
    CHECK(to_host<float>(grad(p[1]))[0] == 0.5F);
    optimizer.step();
    DataParallel parallel(optimizer, {}, dist::Comm());
    parallel.backward(chain_of(p), 1);
    parallel.step();
    CHECK(to_host<float>(p[1])[0] == -1.5F);
  }

  TEST_CASE("what was frozen stays so") {
    run_ranks(2, [](const dist::Comm& world) {
      const Tensors p = make_leaves(2, {kBlock});
      set_requires_grad(p[1], false);
      AdamW optimizer(p);
      DataParallel parallel(optimizer, {.micro_batches = 2}, world);
      CHECK(parallel.cost().buckets == 1);
      set_requires_grad(p[1]);
      check_error([&] { parallel.backward(chain_of(p), 1); }, {"parameter 1", "frozen"});
    });
  }

  TEST_CASE("an absent gradient leaves the sign of a zero") {
    const auto train = [](const dist::Comm& world) {
      const Tensors p = {full({3}, -0.0), full({2}, -0.0)};
      for (const Tensor& t : p) set_requires_grad(t);
      SGD optimizer(p, {.lr = 1});
      DataParallel parallel(optimizer, {.micro_batches = 2}, world);
      for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
        const Tensor other = with_gradient(zeros({}), p[1], 1);
        parallel.backward(i == 0 ? other : with_gradient(other, p[0], -0.0), 1);
      }
      parallel.step();
      CHECK_FALSE(std::signbit(to_host<float>(p[0])[0]));  // -0 - (-0)
      CHECK(to_host<float>(p[1])[0] == -1);
    };
    train(dist::Comm());
    run_ranks(2, train);
  }

  TEST_CASE("each element is written by one rank") {
    for (const int64_t zero : {0, 1}) {
      std::mutex mutex;
      std::vector<int> writers(5 * kBlock + 7, 0);
      run_ranks(3, [&](const dist::Comm& world) {
        const Tensors p = make_leaves(1, {5 * kBlock + 7});
        AdamW optimizer(p);
        DataParallel parallel(optimizer, {.micro_batches = 3, .zero = zero}, world);
        std::lock_guard lock(mutex);
        for (const ParameterRange& r : parallel.written())
          for (int64_t i = r.begin; i < r.end; ++i) ++writers[size_t(i)];
      });
      CHECK(writers == std::vector<int>(writers.size(), 1));
    }
  }

  TEST_CASE("notes of all ranks travel with a step") {
    run_ranks(3, [](const dist::Comm& world) {
      const Tensors p = make_leaves(1, {2});
      AdamW optimizer(p);
      DataParallel parallel(optimizer, {.micro_batches = 3}, world);
      const auto note_of = [](int rank) {
        return std::string(size_t(rank) * 3000, char('a' + rank));
      };
      parallel.backward(chain_of(p), 1);
      parallel.step({}, note_of(world.rank()));
      REQUIRE(parallel.notes().size() == 3);
      for (int r = 0; r < 3; ++r) CHECK(parallel.notes()[size_t(r)] == note_of(r));
    });
  }

  TEST_CASE("bytes that are sent are those of cost()") {
    for (const auto& [ranks, zero, wire, bucket_mb] :
         std::vector<std::tuple<int, int, DType, double>>{{2, 1, f32, 25},
                                                          {2, 0, f32, 0.05},
                                                          {3, 1, bf16, 0.05},
                                                          {4, 1, f32, 1e-4},
                                                          {4, 0, bf16, 25},
                                                          {8, 1, f32, 0.02}}) {
      CAPTURE(ranks);
      CAPTURE(zero);
      for (const DType parameters : {f32, bf16}) {
        RankTraining made{.parameters = parameters, .activations = parameters};
        made.parallel = {.micro_batches = 8, .zero = zero, .bucket_mb = bucket_mb, .wire = wire};
        std::vector<int64_t> before(size_t(ranks), 0);
        train_on_ranks(made, ranks, 3, [&](DataParallel& parallel, int64_t step) {
          int64_t& sent = before[size_t(parallel.comm().rank())];
          const int64_t now = parallel.comm().traffic().bytes_sent;
          if (step > 0) CHECK(now - sent == parallel.cost().bytes_sent);
          sent = now;
        });
      }
    }
  }

  TEST_CASE("bytes of gradients of experts go to their replicas") {
    const RankTraining made{.experts = true};
    run_ranks(4, [&](const dist::Comm& world) {
      const auto model = make_rank_model(made, 7);
      const auto experts = spread_experts(*model, 2, world);
      AdamW optimizer(model->parameters());
      DataParallel parallel(optimizer, made.parallel, world, experts);
      int64_t before = 0;
      for (int64_t step = 0; step < 2; ++step) {
        run_micro_batches(parallel, *model, made, step);
        parallel.step();
        const int64_t now = world.traffic().bytes_sent + experts->replicas().traffic().bytes_sent;
        // Weights of buckets without a gradient stay.
        const double sent = double(now - before);
        if (step > 0) CHECK(sent <= double(parallel.cost().bytes_sent));
        if (step > 0) CHECK(sent > 0.95 * double(parallel.cost().bytes_sent));
        before = now;
      }
    });
  }

  TEST_CASE("buckets leave while backward runs") {
    const RankTraining made{.parallel = {.micro_batches = 8, .bucket_mb = 0.02}};
    train_on_ranks(made, 2, 2, [](DataParallel& parallel, int64_t) {
      const ParallelCost cost = parallel.cost();
      CHECK(cost.buckets > 4);
      CHECK(cost.buckets_in_backward == cost.buckets);
    });
    // Seen from inside: when the first parameters' turn comes, those of the last have left.
    run_ranks(2, [](const dist::Comm& world) {
      const Tensors p = make_leaves(4, {kBlock});
      AdamW optimizer(p);
      DataParallel parallel(optimizer, {.micro_batches = 4, .bucket_mb = 0.1}, world);
      std::vector<int64_t> operations;
      for (const Tensor& t : p)
        on_grad(t, [&](const Tensor&) { operations.push_back(world.traffic().operations); });
      const int64_t before = world.traffic().operations;
      for (int i = 0; i < 2; ++i) parallel.backward(chain_of(p), 1);
      REQUIRE(operations.size() == 8);
      for (int64_t i = 0; i < 4; ++i) {
        CHECK(operations[size_t(i)] == before);
        CHECK(operations[size_t(4 + i)] == before + i + 1);
      }
      parallel.step();
    });
  }

  TEST_CASE("ranks own even parts, and hold moments and gradients as cost() says") {
    constexpr int64_t kLeaves = 24, kBytes = kLeaves * 2 * kBlock * int64_t(sizeof(float));
    for (const auto& [ranks, zero, m] : std::vector<std::tuple<int, int, int64_t>>{
             {1, 1, 8}, {1, 1, 1}, {2, 1, 2}, {4, 1, 4}, {8, 1, 8}, {2, 0, 2}, {4, 1, 32}}) {
      CAPTURE(ranks);
      CAPTURE(zero);
      CAPTURE(m);
      const int64_t parts = zero == 1 ? ranks : 1;
      std::mutex mutex;
      size_t moments = 0, gradients = 0, buckets = 0, weights = 0;
      const size_t begin = memory_stats(cpu).in_use;
      std::vector<std::shared_ptr<AdamW>> optimizers;
      run_ranks(ranks,
                [&](const dist::Comm& world) {
                  const Tensors p = make_leaves(kLeaves, {2, kBlock});
                  const auto optimizer = std::make_shared<AdamW>(p);
                  DataParallel parallel(
                      *optimizer, {.micro_batches = m, .zero = zero, .bucket_mb = 0.6}, world);
                  for (int step = 0; step < 2; ++step) {
                    if (step == 1) {
                      world.barrier();
                      if (world.rank() == 0) reset_peak_memory(cpu);
                      world.barrier();
                    }
                    for (int64_t i = parallel.begin(); i < parallel.end(); ++i)
                      parallel.backward(chain_of(p), 1);
                    parallel.step();
                  }
                  const ParallelCost cost = parallel.cost();
                  CHECK(int64_t(cost.moment_bytes) == 2 * kBytes / parts);
                  std::lock_guard lock(mutex);
                  optimizers.push_back(optimizer);
                  weights += size_t(kBytes);
                  moments += cost.moment_bytes;
                  gradients += cost.gradient_bytes;
                  buckets += cost.bucket_bytes;
                },
                {.delay_us = 0});
      const double held = double(memory_stats(cpu).in_use - begin);
      CHECK(held == doctest::Approx(double(weights + moments)).epsilon(0.01));
      const double peak = double(memory_stats(cpu).peak - begin) - held;
      CHECK(peak < double(gradients + buckets) * 1.05);
      if (ranks == 1)  // and, where some are kept, one that has just arrived
        CHECK(peak ==
              doctest::Approx(double(gradients + (m > 1 ? kBytes / kLeaves : 0))).epsilon(0.01));
    }
  }
}
