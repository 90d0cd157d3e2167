// The order in which a rank begins operations of the world and of groups. Cards want the same on
// all ranks: a kernel that waits for others holds up whatever waits for the card.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/random.h>
#include <olm/nn/blocks.h>
#include <olm/nn/expert_parallel.h>
#include <olm/nn/moe.h>
#include <olm/nn/norms.h>
#include <olm/nn/parallel.h>
#include <olm/nn/structure.h>
#include "tests/support/ranks.h"

using namespace olm;
using namespace olm::nn;
using namespace olm::test;

namespace {

/// What a rank began: the number of the group, 0 for the world, and the operation.
struct Log {
  std::vector<std::string> operations = {};
  int groups = 0;
};

/// Writes down what begins, on its way to another transport.
class Recorded final : public dist::detail::Backend {
 public:
  Recorded(std::shared_ptr<Backend> to, std::shared_ptr<Log> log)
      : to_(std::move(to)), log_(std::move(log)), number_(log_->groups++) {}
  int rank() const override { return to_->rank(); }
  int size() const override { return to_->size(); }
  void require_reach(const char* op, const Tensor& x) const override { to_->require_reach(op, x); }
  std::shared_ptr<dist::detail::Progress> start(dist::detail::Exchange exchange) override {
    log_->operations.push_back(std::to_string(number_) + " " + exchange.name);
    return to_->start(std::move(exchange));
  }
  std::shared_ptr<dist::detail::Progress> start_all_reduce(const Tensor& x) override {
    return to_->start_all_reduce(x);
  }
  std::shared_ptr<Backend> host() override { return to_->host(); }
  std::vector<int64_t> used_numbers() const override { return to_->used_numbers(); }
  std::shared_ptr<Backend> group(const std::vector<int>& ranks, int64_t number) override {
    return std::make_shared<Recorded>(to_->group(ranks, number), log_);
  }
  dist::Traffic traffic() const override { return to_->traffic(); }

 private:
  std::shared_ptr<Backend> to_;
  std::shared_ptr<Log> log_;
  int number_;
};

/// Two experts to a layer, of which one token leaves one idle.
Ref<Module> make_model() {
  const auto layer = [] {
    return Residual(
        Block({RMSNorm(16),
               SwiGLUMoEFFN({.embed_dim = 16, .num_experts = 2, .top_k = 1, .hidden_dim = 8})}));
  };
  auto model = Block({Embedding(64, 16), Repeat(layer, 3), OutputHead(16, 64)});
  init(model, {.seed = 7});
  return model;
}

/// What the ranks of two groups, that share experts, begin in a step; rank 0 has one token.
std::vector<Log> step_of_ranks(bool ordered) {
  std::vector<Log> logs(4);
  run_ranks(4, [&](const dist::Comm& world) {
    const auto log = std::make_shared<Log>();
    const dist::Comm comm(std::make_shared<Recorded>(world.backend(), log));
    const auto model = make_model();
    const auto experts = spread_experts(*model, 2, comm);
    AdamW optimizer(model->parameters());
    DataParallel parallel(optimizer,
                          {.micro_batches = 8,
                           .bucket_mb = 0.001,
                           .deterministic = ordered,
                           .order = model->parameters()},
                          comm, experts);
    for (int64_t i = parallel.begin(); i < parallel.end(); ++i) {
      Generator ids(uint64_t(100 + i));
      const Shape shape{1, world.rank() == 0 ? 1 : 64};
      const Tensor inputs = randint(0, 64, shape, ids), targets = randint(0, 64, shape, ids);
      Context ctx;
      parallel.backward(model->loss(inputs, targets, ctx), shape[1]);
    }
    parallel.step();
    CHECK(parallel.cost().buckets_in_backward == parallel.cost().buckets);
    logs[size_t(world.rank())] = *log;
  });
  return logs;
}

}  // namespace

TEST_SUITE("nn/parallel_order") {
  TEST_CASE("buckets leave between rows of experts in one order, whichever experts are idle") {
    for (const bool ordered : {true, false}) {
      const std::vector<Log> logs = step_of_ranks(ordered);
      for (const Log& log : logs) CHECK(log.operations == logs[0].operations);
      // Rows of the first layer travel after a bucket of the last.
      const auto end = logs[0].operations.end();
      const auto bucket = std::find(logs[0].operations.begin(), end, "0 reduce_scatter");
      CHECK(std::find(bucket, end, "1 all_to_all") != end);
    }
  }
}
