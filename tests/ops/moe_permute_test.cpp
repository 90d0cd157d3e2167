#include <doctest/doctest.h>

#include <tests/support/cases/moe_permute.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/moe_permute", moe_permute_cases())

namespace {
using Ids = std::vector<int64_t>;
}

TEST_SUITE("ops/moe_permute") {
  TEST_CASE("pairs of one expert keep their order, and experts without pairs have no rows") {
    const MoEPermutation p = moe_sort(from_host<int32_t>({3, 0, 3, 0, 0, 3}, {3, 2}), 5);
    CHECK(to_host<int64_t>(p.rows) == Ids{1, 3, 4, 0, 2, 5});
    CHECK(to_host<int64_t>(p.positions) == Ids{3, 0, 4, 1, 2, 5});
    CHECK(to_host<int64_t>(p.offsets) == Ids{0, 3, 3, 3, 6, 6});
    CHECK(p.positions.shape() == Shape{3, 2});
  }

  TEST_CASE("without tokens no expert has rows") {
    const MoEPermutation p = moe_sort(empty({0, 2}, {.dtype = i32}), 3);
    CHECK(to_host<int64_t>(p.offsets) == Ids{0, 0, 0, 0});
    CHECK(moe_permute(empty({0, 4}), p).shape() == Shape{0, 4});
  }

  TEST_CASE("the order does not depend on the cut into chunks") {
    Generator g(3);
    const int64_t tokens = 9000, experts = 64;
    const Tensor ids = chosen_experts(g, tokens, 2, experts);
    const MoEPermutation p = moe_sort(ids, experts);
    const Ids rows = to_host<int64_t>(p.rows), positions = to_host<int64_t>(p.positions);
    const Ids offsets = to_host<int64_t>(p.offsets), of = to_host<int64_t>(ids);
    bool good = true;
    for (size_t e = 0; e < size_t(experts); ++e)
      for (auto i = size_t(offsets[e]); i < size_t(offsets[e + 1]); ++i) {
        good &= of[size_t(rows[i])] == int64_t(e) && size_t(positions[size_t(rows[i])]) == i;
        good &= i == size_t(offsets[e]) || rows[i] > rows[i - 1];
      }
    CHECK(good);
    CHECK(offsets.back() == 2 * tokens);
  }

  TEST_CASE("leading dimensions are tokens") {
    Generator g(5);
    const Tensor x = randn({2, 3, 4}, g), ids = raw::view(chosen_experts(g, 6, 2, 3), {2, 3, 2});
    const Tensor flat = moe_permute(raw::view(x, {6, 4}), moe_sort(raw::view(ids, {6, 2}), 3));
    check_same_bits(moe_permute(x, moe_sort(ids, 3)), flat, "rows");
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor ids = from_host<int32_t>({0, 1, 2, 4}, {2, 2});
    check_error([&] { moe_sort(ids, 4); }, {"moe_sort", "index 4", "position 3", "[0, 4)"});
    check_error([&] { moe_sort(from_host<int64_t>({-1}, {1, 1}), 4); }, {"moe_sort", "-1"});
    check_error([&] { moe_sort(ids, 0); }, {"moe_sort", "got 0"});
    check_error([&] { moe_sort(randn({2, 2}, g), 4); }, {"moe_sort", "f32"});
    const MoEPermutation p = moe_sort(ids, 5);
    check_error([&] { moe_permute(randn({3, 4}, g), p); }, {"moe_permute", "[3,4]", "2"});
    check_error([&] { moe_permute(randn({2, 4}, g), {}); }, {"moe_permute", "not defined"});
    MoEPermutation wrong = p;
    wrong.rows = from_host<int32_t>({0, 1, 2, 9}, {4});
    check_error([&] { moe_permute(randn({2, 4}, g), wrong); }, {"moe_permute", "index 9"});
    wrong.rows = arange(4);
    check_error([&] { moe_permute(randn({2, 4}, g), wrong); }, {"moe_permute", "i64"});
  }
}
