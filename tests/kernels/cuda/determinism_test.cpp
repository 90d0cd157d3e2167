// Every op on the device under test gives the same bits each time. OLM_REPEATS=N makes N runs on
// inputs that keep a whole card busy; without it there are two on tiny ones.
#include <doctest/doctest.h>

#include <cstdlib>

#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

void repeat_every_op(DType dtype) {
  if (test_device() == cpu) return;  // the op suites ask the CPU about its threads
  const char* asked = std::getenv("OLM_REPEATS");
  const int times = asked ? std::atoi(asked) : 2;
  REQUIRE(times >= 2);
  for (const OpSuite& suite : op_suites())
    for (const OpCase& c : suite.cases()) {
      INFO(suite.name, ": ", c.name);
      if (!c.unasked.contains(Question::threads)) check_repeats(c, dtype, times, asked != nullptr);
    }
}

}  // namespace

TEST_SUITE("kernels/cuda/determinism") {
  TEST_CASE("f32 gives the same bits each time") { repeat_every_op(f32); }
  TEST_CASE("bf16 gives the same bits each time") { repeat_every_op(bf16); }
  TEST_CASE("f16 gives the same bits each time") { repeat_every_op(f16); }
}
