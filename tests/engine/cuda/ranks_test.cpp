// Ranks on cards: as many threads as there are cards, at most four.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <set>

#include <olm/engine/backend.h>
#include <olm/engine/cuda/report.h>
#include "tests/support/comm_cases.h"
#include "tests/support/rank_training.h"
#include "tests/support/ranks.h"

using namespace olm;
using olm::test::run_ranks;

namespace {

int count_cards() {
  int count = 0;
  while (count < 4 && cuda_backend::why_not(count).empty()) ++count;
  return count;
}

}  // namespace

TEST_SUITE("engine/cuda/ranks") {
  TEST_CASE("operations among cards") {
    const int cards = count_cards();
    for (const int ranks : std::set<int>{std::min(cards, 1), cards})
      for (const auto& [name, run] : test::comm_cases()) {
        if (name.find("f64") != std::string::npos || name == "bad calls") continue;
        CAPTURE(ranks);
        CAPTURE(name);
        CHECK_NOTHROW(run_ranks(ranks,
                                [&run = run](const dist::Comm& comm) {
                                  test::set_case_device(cuda(comm.rank()));
                                  run(comm);
                                },
                                {.delay_us = 5}));
      }
  }

  TEST_CASE("a rank that fails ends what the others' cards wait for") {
    const int ranks = count_cards();
    if (ranks < 2) return;
    std::atomic<int> ended = 0;
    const auto f = [&](const dist::Comm& comm) {
      const Device card = cuda(comm.rank());
      const Tensor x = ones({1000}, {.device = card}), y = ones({100000}, {.device = card});
      comm.all_reduce(x).wait();
      synchronize(card);
      const dist::Work first = comm.all_reduce(y);
      if (comm.rank() == 1) throw Error("the disk is full");
      try {
        comm.all_reduce(x).wait();
        first.wait();
        synchronize(card);
      } catch (const dist::PeerError& e) {
        CHECK(std::string(e.what()) == "rank 1: the disk is full");
        ++ended;
        throw;
      }
    };
    CHECK_THROWS_WITH_AS(run_ranks(ranks, f), "the disk is full", Error);
    CHECK(ended == ranks - 1);
    // Also where they wait for each other to be found.
    const auto g = [](const dist::Comm& comm) {
      if (comm.rank() == 1) throw Error("the disk is full");
      comm.all_reduce(ones({1000}, {.device = cuda(comm.rank())}));
    };
    CHECK_THROWS_WITH_AS(run_ranks(ranks, g), "the disk is full", Error);
    // Cards work on.
    run_ranks(ranks, [](const dist::Comm& comm) {
      test::set_case_device(cuda(comm.rank()));
      test::comm_cases().front().run(comm);
    });
  }

  TEST_CASE("training on several cards has the bits of one") {
    const int cards = count_cards();
    for (test::RankTraining made : std::vector<test::RankTraining>{
             {.name = "dense"},
             {.name = "experts", .experts = true, .activations = bf16},
             {.name = "spread experts", .experts = true, .spread = 2}}) {
      CAPTURE(made.name);
      made.on_cards = true;
      made.parallel.micro_batches = 4;
      test::RankTraining alone = made;
      alone.spread = 1;
      if (cards < 1) return;
      const test::RankResult one = test::train_on_ranks(alone, 1, 2);
      if (cards >= 2) test::check_same(test::train_on_ranks(made, 2, 2), one);
      made.parallel.bucket_mb = 0.01;
      if (cards >= 3 && made.spread == 1) test::check_same(test::train_on_ranks(made, 3, 2), one);
    }
  }
}
