#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/view.h>
#include <tests/support/cases/view.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/view", view_cases())

TEST_SUITE("ops/view") {
  TEST_CASE("views share memory") {
    const Tensor x = ones({2, 3});
    for (const Tensor& y : {view(x, {3, 2}), reshape(x, {6}), transpose(x, 0, 1), flatten(x),
                            permute(x, {1, 0}), expand(x, {4, 2, 3}), unsqueeze(x, 0), squeeze(x)})
      CHECK(y.data() == x.data());
    CHECK(reshape(transpose(x, 0, 1), {6}).data() != x.data());
  }

  TEST_CASE("elements are where they belong") {
    const Tensor x = arange(6);
    const Tensor y = view(x, {2, 3});
    CHECK(to_host<int64_t>(transpose(y, 0, 1)) == std::vector<int64_t>{0, 3, 1, 4, 2, 5});
    CHECK(to_host<int64_t>(reshape(transpose(y, 0, 1), {2, 3})) ==
          std::vector<int64_t>{0, 3, 1, 4, 2, 5});
    CHECK(to_host<int64_t>(expand(view(x, {6, 1}), {-1, 2})) ==
          std::vector<int64_t>{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5});
    CHECK(permute(empty({2, 3, 4}), {2, 0, 1}).shape() == Shape{4, 2, 3});
  }

  TEST_CASE("shapes come out as asked") {
    const Tensor x = empty({2, 1, 3, 1});
    CHECK(squeeze(x).shape() == Shape{2, 3});
    CHECK(squeeze(x, -1).shape() == Shape{2, 1, 3});
    CHECK(squeeze(x, 0).shape() == x.shape());
    CHECK(unsqueeze(x, 4).shape() == Shape{2, 1, 3, 1, 1});
    CHECK(flatten(x, 0, 2).shape() == Shape{6, 1});
    CHECK(flatten(ones({})).shape() == Shape{1});
    CHECK(reshape(empty({0, 4}), {2, 0}).shape() == Shape{2, 0});
    CHECK(view(ones({}), {1, 1}).shape() == Shape{1, 1});
    CHECK(reshape(empty({4, 6}, {.device = meta}), {-1, 8}).shape() == Shape{3, 8});
  }

  TEST_CASE("what does not fit is refused") {
    const Tensor x = ones({2, 3});
    check_error([&] { view(x, {4}); }, {"view", "[4]"});
    check_error([&] { view(transpose(x, 0, 1), {6}); }, {"view", "reshape"});
    check_error([&] { reshape(x, {-1, 4}); }, {"reshape", "4"});
    check_error([&] { transpose(x, 0, 2); }, {"transpose", "2"});
    check_error([&] { permute(x, {0}); }, {"permute", "[0]"});
    check_error([&] { permute(x, {0, 0}); }, {"permute", "twice"});
    check_error([&] { expand(x, {2, 4}); }, {"expand", "[2,3]", "[2,4]"});
    check_error([&] { squeeze(x, 2); }, {"squeeze", "2"});
    check_error([&] { unsqueeze(x, 4); }, {"unsqueeze", "4"});
    check_error([&] { flatten(x, 1, 0); }, {"flatten", "1", "0"});
    check_error([&] { unsqueeze(ones({1, 1, 1, 1, 1, 1, 1, 1}), 0); }, {"unsqueeze", "8"});
  }
}
