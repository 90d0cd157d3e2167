#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <locale>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <olm/kernels/base/instruction_set.h>
#include <olm/kernels/base/math.h>
#include <olm/kernels/base/parallel.h>
#include <olm/kernels/base/philox.h>
#include <olm/kernels/gemm.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::kernels;

TEST_SUITE("kernels/base") {
  TEST_CASE("sizes are divided and rounded up, and multiples stay") {
    for (int64_t n = 0; n < 40; ++n) {
      int64_t parts = 0;
      while (parts * 16 < n) ++parts;
      CHECK(ceil_div(n, 16) == parts);
      CHECK(round_up(n, 16) == parts * 16);
    }
    CHECK(ceil_div((int64_t(1) << 62) + 1, int64_t(1) << 31) == (int64_t(1) << 31) + 1);
  }

  TEST_CASE("parallel_for covers each index once, in ranges cut by n and grain alone") {
    for (const int threads : {1, 2, 5}) {
      set_threads(threads);
      std::vector<std::atomic<int>> seen(1003);
      parallel_for(1003, 10, [&](int64_t begin, int64_t end) {
        CHECK(begin % 10 == 0);
        CHECK(end == std::min<int64_t>(begin + 10, 1003));
        for (int64_t i = begin; i < end; ++i) ++seen[size_t(i)];
      });
      for (const auto& count : seen) CHECK(count == 1);
    }
    set_threads(2);
    parallel_for(0, 10, [](int64_t, int64_t) { FAIL("no range was wanted"); });
  }

  TEST_CASE("exceptions reach the caller, and nesting works") {
    CHECK_THROWS_AS(
        parallel_for(100, 1, [](int64_t begin, int64_t) { require(begin != 57, "57"); }), Error);
    std::atomic<int64_t> sum = 0;
    parallel_for(20, 1, [&](int64_t i, int64_t) {
      parallel_for(50, 7, [&](int64_t begin, int64_t end) { sum += (end - begin) * i; });
    });
    CHECK(sum == 50 * 190);
  }

  TEST_CASE("threads of the caller may use the pool at once, while its size changes") {
    std::vector<std::thread> callers;
    std::atomic<int64_t> total = 0;
    for (int t = 0; t < 3; ++t)
      callers.emplace_back([&] {
        for (int i = 0; i < 200; ++i)
          parallel_for(64, 4, [&](int64_t begin, int64_t end) { total += end - begin; });
      });
    for (int i = 0; i < 20; ++i) set_threads(1 + i % 3);
    for (std::thread& caller : callers) caller.join();
    CHECK(total == 3 * 200 * 64);
    set_threads(2);
  }

#if defined(__x86_64__)
  TEST_CASE(
      "kernels run on each instruction set that build and machine have, or on the forced one") {
    const std::string built = std::string("SSE4, ") + OLM_INSTRUCTION_SETS;
    std::vector<std::string> wanted, seen;
    const auto want = [&](const char* name, bool here) {
      if (here && built.find(name) != std::string::npos) wanted.push_back(name);
    };
    want("SSE4", true);
    want("AVX2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    want("AVX-512", __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"));
    const std::string widest = wanted.back();
    if (const char* forced = std::getenv("OLM_TEST_TARGET")) wanted = {forced};
    test::for_each_target([&](const std::string& name) {
      CHECK(name == name_of(instruction_set()));
      const CpuFeatures used = cpu_features();
      CHECK(used.vectors == instruction_set());
      CHECK((used.amx           ? "AMX"
             : used.avx512_bf16 ? "AVX-512 BF16"
                                : gemm_kernels(bf16)) == std::string(gemm_kernels(bf16)));
      // Both are instructions beside AVX-512, and one is used at a time.
      CHECK(int(used.amx) + int(used.avx512_bf16) <= int(used.vectors == InstructionSet::avx512));
      seen.push_back(name);
    });
    CHECK(seen == wanted);
    CHECK(name_of(instruction_set()) == (wanted.size() == 1 ? wanted.front() : widest));
  }
#endif

  TEST_CASE("a number of threads outside 1 to 4096 is refused") {
    test::check_error([] { set_threads(0); }, {"set_threads", "0"});
    test::check_error([] { set_threads(5000); }, {"5000"});
  }

  TEST_CASE("messages write numbers alike wherever the program runs") {
    struct Grouped : std::numpunct<char> {
      char do_thousands_sep() const override { return '.'; }
      char do_decimal_point() const override { return ','; }
      std::string do_grouping() const override { return "\3"; }
    };
    const std::locale before =
        std::locale::global(std::locale(std::locale::classic(), new Grouped));
    const std::string what = Error("got ", 4096, " and ", 0.5).what();
    std::locale::global(before);
    CHECK(what == "got 4096 and 0.5");
  }

  TEST_CASE("Philox gives the published known answers") {
    // Random123, kat_vectors, philox4x32 with 10 rounds.
    const Philox4 zero = philox(0, 0);
    CHECK(zero.v[0] == 0x6627e8d5u);
    CHECK(zero.v[1] == 0xe169c58du);
    CHECK(zero.v[2] == 0xbc57ac4cu);
    CHECK(zero.v[3] == 0x9b00dbd8u);
    CHECK(philox_word(3, 6) == philox(3, 1).v[2]);
    CHECK(to_uniform(0xffffffffu) < 1.0f);
    CHECK(to_uniform(0) == 0.0f);
  }
}
