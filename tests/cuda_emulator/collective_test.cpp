#include <algorithm>
#include <numeric>

#include <tests/cuda_emulator/kernels.h>
#include <tests/cuda_emulator/support.h>

using namespace olm;
using namespace olm::cuda_emulator;
using namespace olm::cuda_emulator::test;

TEST_SUITE("cuda_emulator/collective") {
  TEST_CASE("shuffles, votes and matches give every lane what CUDA does, in any order") {
    for (const char* mode : {"lazy", "seed=1", "seed=2"}) {
      const Mode in(mode);
      const DeviceArray<unsigned> out(32 * kCollectiveResults);
      REQUIRE(all_collectives(out) == cudaSuccess);
      const std::vector<unsigned> got = out.values();
      REQUIRE_MESSAGE(got.size() == 32 * kCollectiveResults, report_text());
      for (unsigned l = 0; l < 32; ++l) {
        const std::vector<unsigned> want = {5,
                                            l / 8 * 8 + 2,
                                            l ^ 3u,
                                            l % 16 >= 4 ? l - 4 : l,
                                            l % 16 < 12 ? l + 4 : l,
                                            0x49249249u,
                                            1,
                                            0,
                                            0x11111111u << l % 4,
                                            (31 - l) * 2 + 1};
        for (unsigned i = 0; i < kCollectiveResults; ++i)
          CHECK_MESSAGE(got[l * kCollectiveResults + i] == want[i], "lane ", l, " result ", i);
      }
    }
  }

  TEST_CASE("two masks of one warp may be in flight at once") {
    const Mode in;
    const DeviceArray<int> out(64);
    REQUIRE(collectives(out, Collectives::right) == cudaSuccess);
    const std::vector<int> got = out.values();
    REQUIRE(got.size() == 64);
    for (int t = 0; t < 64; ++t) CHECK(got[size_t(t)] == (t % 32 < 16 ? 3 : 19));
  }

  TEST_CASE("named barriers hand over between warps, and a missing one shows") {
    constexpr int kRounds = 20;
    const auto run = [&](const std::string& mode, bool right) {
      const Mode in(mode);
      const DeviceArray<int> out(32);
      REQUIRE(handover(out, kRounds, right) == cudaSuccess);
      const std::vector<int> got = out.values();
      if (!report_text().empty() || got.size() != 32) return false;
      for (int l = 0; l < 32; ++l)
        if (got[size_t(l)] != kRounds * (kRounds - 1) / 2 * 32 + kRounds * (l ^ 1)) return false;
      return true;
    };
    for (const char* mode : {"lazy", "seed=1", "seed=2", "seed=3"}) CHECK(run(mode, true));
    CHECK_FALSE(run("lazy", false));
  }

  TEST_CASE("__syncthreads_count counts over all threads of the block") {
    for (const char* mode : {"lazy", "seed=5"}) {
      const Mode in(mode);
      const DeviceArray<int> out(96);
      REQUIRE(count_odd(out, 96) == cudaSuccess);
      CHECK(out.values() == std::vector<int>(96, 48));
    }
  }

  TEST_CASE("blocks run in order, or with a seed in another order, each once") {
    const auto order = [](const std::string& mode) {
      const Mode in(mode);
      const DeviceArray<int> out(37), next(std::vector<int>{0});
      REQUIRE(block_order(out, next, 37) == cudaSuccess);
      return out.values();
    };
    std::vector<int> ascending(37);
    std::iota(ascending.begin(), ascending.end(), 0);
    CHECK(order("lazy") == ascending);
    std::vector<int> drawn = order("seed=7");
    CHECK(drawn != ascending);
    CHECK(drawn == order("seed=7"));
    std::sort(drawn.begin(), drawn.end());
    CHECK(drawn == ascending);
  }

  TEST_CASE("a copy that nobody waits for is reported when its thread exits") {
    const Mode in;
    const DeviceArray<float> x(4);
    REQUIRE(leave_copy_in_flight(x) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    CHECK(contains(report_text(), "the thread exits with 1 cp.async in flight"));
    CHECK(reports()[0].count == 32);
  }

  TEST_CASE("a kernel that stops itself fails, and the grid ends with that block") {
    const Mode in;
    REQUIRE(stop_itself() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    REQUIRE(reports().size() == 1);
    CHECK(reports()[0].count == 1);
    CHECK(reports()[0].sentence ==
          "kernel trap_kernel, block (0, 0, 0), thread (0, 0, 0): the kernel stopped itself with "
          "__trap()");
  }
}
