// DataParallel where backward throws, and where others hold gradients too.
#include <doctest/doctest.h>

#include <olm/autograd/tape.h>
#include <olm/nn/parallel.h>
#include <tests/support/checks.h>
#include <tests/support/rank_training.h>
#include <tests/support/ranks.h>

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

constexpr int64_t kBlock = kernels::kNormBlock;

/// A loss whose backward gives `parameters` their gradients, the last one first, and throws at
/// `last`.
Tensor broken_after(const Tensors& parameters, const Tensor& last, double gradient) {
  Tensor loss = record("bad", zeros({}), {last},
                       [](const Tensor&, Sinks) -> Grads { throw Error("broken"); });
  for (const Tensor& p : parameters) loss = with_gradient(loss, p, gradient);
  return loss;
}

}  // namespace

TEST_SUITE("nn/parallel") {
  TEST_CASE("after a backward that throws zero_grad() begins the step anew") {
    for (const int ranks : {1, 2}) {
      run_ranks(ranks, [&](const dist::Comm& world) {
        for (const bool deterministic : {true, false}) {
          const Tensors p = make_leaves(3, {kBlock + 1});
          SGD optimizer(p, {.lr = 1});
          DataParallel parallel(
              optimizer,
              {.micro_batches = 2 * ranks, .bucket_mb = 0.1, .deterministic = deterministic},
              world);
          // The last parameters have their gradients, and have left, when it throws.
          const Tensor loss = broken_after({p[1], p[2]}, p[0], 5);
          parallel.backward(chain_of(p), 1);
          check_error([&] { parallel.backward(loss, 1); }, {"broken"});
          check_error([&] { parallel.backward(chain_of(p), 1); }, {"zero_grad() first"});
          check_error([&] { parallel.step(); }, {"zero_grad() first"});
          parallel.zero_grad();
          for (int i = 0; i < 2; ++i) parallel.backward(chain_of(p), 1);
          const StepInfo info = parallel.step();
          CHECK(info.loss == 0);
          for (const Tensor& t : p) CHECK(to_host<float>(t)[kBlock] == -0.5F);
        }
      });
    }
  }

  TEST_CASE("who watches a gradient keeps what it was handed") {
    const Tensors p = make_leaves(1, {3});
    Tensors seen;
    on_grad(p[0], [&](const Tensor& g) { seen.push_back(g); });
    SGD optimizer(p, {.lr = 1});
    DataParallel parallel(optimizer, {.micro_batches = 4}, dist::Comm());
    for (int i = 0; i < 4; ++i) parallel.backward(chain_of(p), 1);
    parallel.step();
    REQUIRE(seen.size() == 4);
    for (const Tensor& g : seen) CHECK(to_host<float>(g)[0] == 0.5F);
    CHECK(to_host<float>(p[0])[0] == -0.5F);
  }

  TEST_CASE("so it does where gradients travel") {
    for (const int64_t zero : {0, 1})
      run_ranks(2, [&](const dist::Comm& world) {
        const Tensors p = make_leaves(2, {2 * kBlock});
        std::vector<Tensor> seen;
        for (const Tensor& t : p) on_grad(t, [&](const Tensor& g) { seen.push_back(g); });
        SGD optimizer(p, {.lr = 1});
        DataParallel parallel(optimizer, {.micro_batches = 2, .zero = zero, .bucket_mb = 0.1},
                              world);
        const double own = 1 + world.rank();
        parallel.backward(chain_of(p, own), 1);
        parallel.step();
        REQUIRE(seen.size() == 2);
        for (const Tensor& g : seen)
          CHECK(to_host<float>(g) == std::vector<float>(2 * kBlock, float(own)));
        CHECK(to_host<float>(p[0])[0] == -1.5F);
      });
  }
}
