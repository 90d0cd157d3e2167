#include <doctest/doctest.h>

#include <tests/support/cases/moe_combine.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/moe_combine", moe_combine_cases())

TEST_SUITE("ops/moe_combine") {
  TEST_CASE("weights of 1 on rows that were permuted give K times the tokens") {
    Generator g(2);
    const Tensor x = randn({2, 5, 8}, g), ids = raw::view(chosen_experts(g, 10, 4, 6), {2, 5, 4});
    const MoEPermutation p = moe_sort(ids, 6);
    const Tensor y = moe_combine(moe_permute(x, p), ones({2, 5, 4}), p);
    CHECK(y.shape() == x.shape());
    const Tensor wanted = raw::clone(x);
    raw::scale_(wanted, 4);
    check_same_bits(y, wanted, "sum");
  }

  TEST_CASE("only the gradients that are wanted are computed") {
    Generator g(3);
    const MoEPermutation p = moe_sort(chosen_experts(g, 6, 2, 3), 3);
    for (int wanted = 1; wanted < 8; ++wanted) {
      const Tensors in{randn({12, 5}, g), uniform({6, 2}, g), randn({6, 5}, g)};
      for (size_t i = 0; i < 3; ++i) set_requires_grad(in[i], wanted >> i & 1);
      backward(moe_combine(in[0], in[1], p, in[2]), {.gradient = ones({6, 5})});
      for (size_t i = 0; i < 3; ++i) CHECK(grad(in[i]).defined() == bool(wanted >> i & 1));
    }
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const MoEPermutation p = moe_sort(chosen_experts(g, 3, 2, 4), 4);
    const Tensor y = randn({6, 5}, g), w = randn({3, 2}, g);
    check_error([&] { moe_combine(randn({3, 5}, g), w, p); }, {"moe_combine", "[6,5]", "[3,5]"});
    check_error([&] { moe_combine(y, randn({2, 3}, g), p); }, {"weights", "[3,2]", "[2,3]"});
    check_error([&] { moe_combine(y, raw::cast(w, bf16), p); }, {"moe_combine", "bf16"});
    check_error([&] { moe_combine(y, w, p, y); }, {"residual", "[3,5]", "[6,5]"});
    MoEPermutation wrong = p;
    wrong.positions = from_host<int32_t>({0, 1, 2, 3, 4, -1}, {3, 2});
    check_error([&] { moe_combine(y, w, wrong); }, {"moe_combine", "index -1", "[0, 6)"});
  }
}
