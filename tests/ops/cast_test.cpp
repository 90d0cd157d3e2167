#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/embedding.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/view.h>
#include <tests/support/cases/cast.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/cast", cast_case(), contiguous_case())

TEST_SUITE("ops/cast") {
  TEST_CASE("gradients come back in the dtype of the input") {
    for (const DType from : {f32, bf16, f16, f64})
      for (const DType to : {f32, bf16, f16, f64}) {
        const Tensor x = raw::cast(from_host<float>({1, -2, 0.5f}, {3}), from);
        set_requires_grad(x);
        const Tensor y = cast(x, to);
        CHECK(y.dtype() == to);
        CHECK(to_host<float>(y) == std::vector<float>{1, -2, 0.5f});
        backward(y * 2, {.gradient = raw::cast(from_host<float>({1, 2, 4}, {3}), to)});
        CHECK(grad(x).dtype() == from);
        CHECK(to_host<float>(grad(x)) == std::vector<float>{2, 4, 8});
      }
  }

  TEST_CASE("what need not change is handed through") {
    const Tensor x = ones({2, 3});
    CHECK(cast(x, f32).is_same(x));
    CHECK(contiguous(x).is_same(x));
    CHECK(contiguous(raw::transpose(x, 0, 1)).is_contiguous());
  }

  TEST_CASE("bf16 of numbers below the normal ones, of ties and of NaN is exact") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> v = {0x1p-130f, -0x1p-133f, 0x1.01p0f, 0x1.03p0f, 0x1p-134f, nan};
    const std::vector<float> want = {0x1p-130f, -0x1p-133f, 1, 0x1.04p0f, 0};
    for_each_target([&](const std::string& target) {
      CAPTURE(target);
      std::vector<float> many, got;
      for (int i = 0; i < 7; ++i) many.insert(many.end(), v.begin(), v.end());
      got = to_host<float>(cast(from_host(many, {int64_t(many.size())}), bf16));
      for (size_t i = 0; i < got.size(); ++i) {
        CAPTURE(i % v.size());
        if (i % v.size() == 5)
          CHECK(std::isnan(got[i]));
        else
          CHECK(got[i] == want[i % v.size()]);
      }
      const Tensor table = from_host(many, {1, int64_t(many.size())});
      const Tensor row = embedding(from_host<int64_t>({0}, {1}), table, {.dtype = bf16});
      CHECK(to_host<float>(row)[0] == want[0]);
      CHECK(to_host<float>(row)[1] == want[1]);
    });
  }

  TEST_CASE("whole numbers beyond 2^53 are rounded once") {
    const int64_t tie = (int64_t(1) << 62) + (int64_t(1) << 54);
    const Tensor x = from_host<int64_t>({tie + 1, -tie - 1, tie, tie - 1, 1 - tie, INT64_MIN}, {6});
    const float low = 0x1p62f, high = 0x1p62f + 0x1p55f;
    CHECK(to_host<float>(cast(x, bf16)) ==
          std::vector<float>{high, -high, low, low, -low, -0x1p63f});
  }

  TEST_CASE("integers leave the graph") {
    const Tensor x = from_host<float>({1.7f, -1.7f, 0}, {3});
    set_requires_grad(x);
    CHECK(!requires_grad(cast(x, i64)));
    CHECK(to_host<int64_t>(cast(x, i64)) == std::vector<int64_t>{1, -1, 0});
    CHECK(to_host<int64_t>(cast(x, boolean)) == std::vector<int64_t>{1, 1, 0});
    CHECK(to_host<float>(cast(cast(x, i32), f32)) == std::vector<float>{1, -1, 0});
  }
}
