#pragma once
// OLM_OP_SUITE asks every op the same questions: one line in an op's test file.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <tests/support/checks.h>
#include <tests/support/op_case.h>

namespace olm::test {

/// Asks each case, unless it says why not; a case without a derivative must give results that
/// require none.
void ask(Question question, const OpCases& cases);

/// Backward against central differences in f64, under random projections of the results.
void gradcheck(const OpCase& c, double tolerance = 1e-6);
/// Values and gradients of the op in f32, bf16 and f16, on contiguous and strided inputs of awkward
/// sizes, against the composition in f64; with a composition the op in f64 too.
void compare_all(const OpCase& c);

/// Runs the op with its backward `times` times on the device under test, in the size that is work
/// for several threads or else a tiny one; every run must give the bits of the first.
void check_repeats(const OpCase& c, DType dtype, int times, bool large);

/// A suite that asks ops, and its cases.
struct OpSuite {
  std::string name = {};
  const OpCases& (*cases)() = nullptr;
};
/// Every suite of OLM_OP_SUITE, sorted by name.
std::vector<OpSuite> op_suites();
/// What OLM_OP_SUITE does to be among them.
bool add_op_suite(const OpSuite& suite);

inline void append(OpCases& all, OpCase c) { all.push_back(std::move(c)); }
inline void append(OpCases& all, const OpCases& more) {
  all.insert(all.end(), more.begin(), more.end());
}
/// Cases, and lists of cases, as one list.
template <class... Parts>
OpCases op_cases(Parts&&... parts) {
  OpCases all;
  (append(all, std::forward<Parts>(parts)), ...);
  return all;
}

}  // namespace olm::test

/// A suite that asks cases, or lists of them, every question. What is about one op alone stands in
/// a TEST_SUITE of the same name.
#define OLM_OP_SUITE(suite, ...)                                            \
  TEST_SUITE(suite) {                                                       \
    static const olm::test::OpCases& suite_cases() {                        \
      static const auto all = olm::test::op_cases(__VA_ARGS__);             \
      return all;                                                           \
    }                                                                       \
    [[maybe_unused]] static const bool suite_is_known =                     \
        olm::test::add_op_suite({suite, suite_cases});                      \
    TEST_CASE("gradients match finite differences") {                       \
      olm::test::ask(olm::test::Question::gradients, suite_cases());        \
    }                                                                       \
    TEST_CASE("dtypes, layouts and sizes agree with f64") {                 \
      olm::test::ask(olm::test::Question::values, suite_cases());           \
    }                                                                       \
    TEST_CASE("each instruction set gives the same result") {               \
      olm::test::ask(olm::test::Question::instruction_sets, suite_cases()); \
    }                                                                       \
    TEST_CASE("any number of threads gives the same bits") {                \
      olm::test::ask(olm::test::Question::threads, suite_cases());          \
    }                                                                       \
    TEST_CASE("results on meta have the same shapes and dtypes") {          \
      olm::test::ask(olm::test::Question::meta, suite_cases());             \
    }                                                                       \
  }
