// Reductions over axes so long that blocks share them.
#include <doctest/doctest.h>

#include <olm/autograd/ops/reduce.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

/// Every reduction over dimension 1.
Tensors reductions(const Tensor& x) {
  return {sum(x, 1), mean(x, 1),      max(x, 1),    min(x, 1),
          var(x, 1), logsumexp(x, 1), argmax(x, 1), argmin(x, 1)};
}

}  // namespace

TEST_SUITE("kernels/cuda/reduce") {
  TEST_CASE("axes that blocks share are reduced as on the CPU") {
    if (test_device() == cpu) return;
    for (const Shape& shape : {Shape{2, 40000}, Shape{1, 40001}, Shape{1, 6000, 9}}) {
      Generator rng(5);
      Tensor x = randn(shape, rng);
      // Ties at both ends of the axis: the first index is wanted.
      for (const int64_t at : {shape[1] / 3, shape[1] - 1})
        for (const float extreme : {9.0f, -9.0f})
          raw::fill_(raw::slice(x, 1, at - (extreme < 0), at - (extreme < 0) + 1), extreme);
      const double length = double(shape[1]);
      const Tensors wanted = reductions(x), got = reductions(on_test_device(x));
      for (size_t i = 0; i < wanted.size(); ++i)
        check_close(got[i], wanted[i], f32, length, "reduction " + std::to_string(i), 1);
      const Tensor whole = raw::cast(raw::cast(x, i32), i64);
      CHECK(to_host<int64_t>(sum(on_test_device(whole), 1)) == to_host<int64_t>(sum(whole, 1)));
      CHECK(to_host<int64_t>(argmin(on_test_device(whole), 1)) ==
            to_host<int64_t>(argmin(whole, 1)));
    }
  }

  TEST_CASE("the bits of a sum depend on the shape, not on where the memory begins") {
    if (test_device() == cpu) return;
    for (const DType dtype : {f32, bf16})
      for (const int64_t n : {96, 5000, 40000}) {
        Generator rng(6);
        const Tensor all = on_test_device(raw::cast(randn({n + 3}, rng), dtype));
        const Tensor part = raw::slice(all, 0, 3, n + 3);
        check_same_bits(sum(part, 0), sum(raw::clone(part), 0), "sum");
      }
  }
}
