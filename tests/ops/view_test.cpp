#include <doctest/doctest.h>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/view.h>
#include <tests/support/op_case.h>

using namespace olm;
using namespace olm::test;

namespace {

struct Function {
  std::string name;
  Tensor (*op)(const Tensor& x);  // of shape [2, 1, 3, n]
};
const Function kFunctions[] = {
    {"reshape",
     [](const Tensor& x) {
       return reshape(x, {3, -1, 2});
     }},
    {"reshape of transposed",
     [](const Tensor& x) {
       return reshape(transpose(x, 0, 2), {-1, x.size(3)});
     }},
    {"flatten", [](const Tensor& x) { return flatten(x, 1, 2); }},
    {"flatten all", [](const Tensor& x) { return flatten(x); }},
    {"transpose", [](const Tensor& x) { return transpose(x, -1, 0); }},
    {"permute",
     [](const Tensor& x) {
       return permute(x, {2, 0, -1, 1});
     }},
    {"expand",
     [](const Tensor& x) {
       return expand(x, {4, 2, 5, -1, x.size(3)});
     }},
    {"squeeze", [](const Tensor& x) { return squeeze(x, 1); }},
    {"squeeze of another", [](const Tensor& x) { return squeeze(x, 0); }},
    {"unsqueeze", [](const Tensor& x) { return unsqueeze(x, -1); }}};

OpCase case_of(const Function& f) {
  return {.inputs =
              [](Generator& g, int64_t n) {
                return Tensors{randn({2, 1, 3, n}, g)};
              },
          .op = [&f](const Tensors& in) { return f.op(in[0]) * 1.5; },
          .sizes = {1, 31, 33, 4099}};
}

}  // namespace

TEST_SUITE("ops/view") {
  TEST_CASE("gradients match finite differences") {
    for (const Function& f : kFunctions) {
      CAPTURE(f.name);
      gradcheck(case_of(f));
    }
  }

  TEST_CASE("dtypes, layouts and sizes agree with f64") {
    for (const Function& f : kFunctions) {
      CAPTURE(f.name);
      compare_all(case_of(f));
    }
  }

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
