// What `olm bench` measures is right: its cases, on its own shapes and on awkward ones, against
// f64.
#include <doctest/doctest.h>

#include <algorithm>

#include <tests/support/checks.h>

#include "tools/bench/bench.h"

using namespace olm;
using namespace olm::test;
using namespace olm::tools;

namespace {

/// What f64 does in less than a second, sanitizers in a few.
bool is_quick(const Case& c) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr double kMaxFlop = 1e8, kMaxBytes = 8e6;
#else
  constexpr double kMaxFlop = 4e9, kMaxBytes = 7e7;
#endif
  return c.cost.flop / double(c.row_step) <= kMaxFlop &&
         c.cost.bytes * 4 / double(size_of(c.dtype)) <= kMaxBytes;
}

void check_case(const Case& c, double length) {
  const std::string what = c.name + " " + c.shape + " " + name_of(c.dtype) + " " + c.pass;
  const Tensors wanted = c.exact(), got = c.prepare(cpu)();
  REQUIRE_MESSAGE(got.size() == wanted.size(), what);
  for (size_t i = 0; i < got.size(); ++i) {
    REQUIRE_MESSAGE(wanted[i].dtype() == f64, what);
    const Tensor& g = got[i];
    check_close(c.row_step > 1 ? raw::slice(g, 0, 0, g.size(0), c.row_step) : g, wanted[i], c.dtype,
                length, what + " result " + std::to_string(i));
  }
}

/// Returns how many cases were checked. With `once` a forward is left to the case that has it
/// beside the backward.
int64_t check_shapes(const Bench& bench, const std::vector<Sizes>& shapes, bool once) {
  int64_t checked = 0;
  for (const Sizes& shape : shapes) {
    Cases cases;
    for (const DType dtype : {f32, bf16}) bench.add(cases, shape, dtype);
    for (const Case& c : cases) {
      const bool repeats = c.pass == "forward" && bench.name != std::string("gemm");
      if (!c.exact || !is_quick(c) || (once && repeats)) continue;
      check_case(c, double(*std::max_element(shape.begin(), shape.end())));
      ++checked;
    }
  }
  return checked;
}

}  // namespace

TEST_SUITE("kernels/bench_cases") {
  TEST_CASE("awkward shapes of each benchmark give what f64 gives") {
    for (const Bench& bench : benches()) {
      INFO(bench.name);
      const int64_t checked = check_shapes(bench, bench.awkward, false);
      CHECK(((checked > 0) == (bench.name != std::string("generate"))));
    }
  }

  TEST_CASE("the shapes that are measured give what f64 gives, but for the largest") {
    int64_t checked = 0;
    for (const Bench& bench : benches()) {
      INFO(bench.name);
      checked += check_shapes(bench, bench.shapes, true);
    }
    CHECK(checked > 0);
  }
}
