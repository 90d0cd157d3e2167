#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include <olm/engine/comm/backend_internal.h>
#include <olm/engine/raw.h>
#include "tests/support/comm_cases.h"
#include "tests/support/ranks.h"

using namespace olm;
using olm::test::run_ranks;

TEST_SUITE("engine/comm") {
  TEST_CASE("operations among ranks") {
    for (const int ranks : {1, 2, 3, 4})
      for (const auto& [name, run] : test::comm_cases()) {
        CAPTURE(ranks);
        CAPTURE(name);
        CHECK_NOTHROW(run_ranks(ranks, run, {.seed = uint64_t(ranks), .delay_us = 5}));
      }
  }

  TEST_CASE("a process alone is a world of one, and nothing is copied") {
    const dist::Comm comm = dist::init();
    CHECK(comm.size() == 1);
    CHECK(comm.rank() == 0);
    CHECK(dist::local_rank() == 0);
    CHECK(dist::local_size() == 1);
    CHECK(dist::hosts().size() == 1);
    const Tensor x = ones({4});
    const uint64_t version = x.version();
    CHECK(comm.all_reduce(x).done());
    comm.all_gather(x, {4}, x).wait();
    comm.reduce_scatter(x, {4}, x).wait();
    comm.broadcast(x, 0).wait();
    comm.barrier();
    CHECK(x.version() == version);
    CHECK(comm.all_gather(std::string("a")) == std::vector<std::string>{"a"});
    for (const auto& [name, run] : test::comm_cases()) CHECK_NOTHROW(run(comm));
    dist::leave();
    comm.barrier();
  }

  TEST_CASE("a process that was stopped waited for nobody") {
    using dist::detail::Waiting;
    Waiting::Clock::time_point now;
    Waiting waiting(now);
    for (int i = 0; i < 100; ++i) waiting.seconds(now += std::chrono::milliseconds(100));
    CHECK(waiting.seconds(now) == doctest::Approx(10));
    CHECK(waiting.seconds(now += std::chrono::hours(1)) < 11);
    CHECK(waiting.seconds(now += std::chrono::milliseconds(100)) > 10.1);
  }

  TEST_CASE("what comes is not written over what is sent") {
    run_ranks(2, [](const dist::Comm& comm) {
      const Tensor row = zeros({3});
      CHECK_THROWS_WITH_AS(
          comm.all_to_all(raw::slice(row, 0, 0, 2), {1, 1}, raw::slice(row, 0, 1, 3), {1, 1}),
          "all_to_all: what comes would be written over what is sent", Error);
    });
  }

  TEST_CASE("ranks want time to answer") {
    CHECK_THROWS_WITH_AS(dist::init({.timeout = 0}),
                         "init: wanted a timeout and a patience above 0 s, got 0 and 1800", Error);
    CHECK_THROWS_AS(dist::init({.patience = std::nan("")}), Error);
  }

  TEST_CASE("ranks leave when the last has come") {
    std::atomic<bool> came = false;
    run_ranks(3, [&](const dist::Comm& comm) {
      if (comm.rank() == 1) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        came = true;
      }
      dist::leave();
      require(came, "rank ", comm.rank(), " left before rank 1 came");
    });
  }

  TEST_CASE("a rank's exception ends the others, and is the one that is thrown") {
    std::atomic<int> ended = 0;
    const auto f = [&](const dist::Comm& comm) {
      if (comm.rank() == 1) throw Error("the disk is full");
      try {
        comm.barrier();
      } catch (const dist::PeerError& e) {
        CHECK(std::string(e.what()) == "rank 1: the disk is full");
        CHECK(!dist::speaks_for(e));
        ++ended;
        throw;
      }
    };
    CHECK_THROWS_WITH_AS(run_ranks(3, f), "the disk is full", Error);
    CHECK(ended == 2);
  }

  TEST_CASE("ranks as threads ask each other to stop, and see their own world") {
    run_ranks(3, [](const dist::Comm& comm) {
      require(dist::world().rank() == comm.rank() && dist::local_rank() == comm.rank() &&
                  dist::local_size() == 3 && dist::hosts().size() == 3,
              "another world");
      require(!dist::asked_to_stop(), "asked to stop");
      comm.barrier();
      if (comm.rank() == 2) dist::ask_all_to_stop();
      comm.barrier();
      require(dist::asked_to_stop(), "not asked to stop");
    });
    CHECK(dist::world().size() == 1);
  }

  TEST_CASE("groups that do not fit are errors") {
    run_ranks(2, [](const dist::Comm& comm) {
      const auto throws = [&](const std::string& wanted, const std::vector<int>& ranks) {
        try {
          comm.group(ranks);
        } catch (const Error& e) {
          return require(wanted == e.what(), "wanted \"", wanted, "\", got \"", e.what(), "\"");
        }
        throw Error("nothing was thrown");
      };
      const int rank = comm.rank();
      throws(detail::concat("group: wanted rank ", rank, " once in its list of ranks: ", 1 - rank),
             {1 - rank});
      throws("group: wanted ranks below 2, each once, got: 0 1 2", {0, 1, 2});
      if (rank == 0)
        throws("group: rank 0 wants the ranks 0 1 and rank 1 1", {0, 1});
      else
        comm.group({1});
    });
  }
}
