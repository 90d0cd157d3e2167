// Rows of several tiles, which are merged.
#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/sort.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

TEST_SUITE("kernels/cuda/sort") {
  TEST_CASE("rows of several tiles are sorted and cut as on the CPU") {
    if (test_device() == cpu) return;
    const int64_t cols = 9001;  // tiles of 4096 elements, of 2048 in i64: an odd number of each
    std::vector<float> x(size_t(2 * cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = float((i * 7919) % 613) - 300;  // with ties
    x[77] = NAN;
    for (const DType dtype : {f32, bf16, i64}) {
      const Tensor host = raw::cast(from_host(x, {2, cols}), dtype), device = on_test_device(host);
      for (const int64_t count : {int64_t(7), int64_t(5000), cols}) {
        const Sorted wanted = topk(host, count), got = topk(device, count);
        CHECK(to_host<int64_t>(got.indices) == to_host<int64_t>(wanted.indices));
        check_same_bits(got.values, wanted.values, "values");
      }
      CHECK(to_host<int64_t>(argsort(device)) == to_host<int64_t>(argsort(host)));
    }
  }
}
