#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/dropout.h>
#include <olm/kernels/base/philox.h>
#include <olm/kernels/random.h>
#include <tests/support/cases/dropout.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/dropout", dropout_case())

TEST_SUITE("ops/dropout") {
  TEST_CASE("each instruction set draws the mask that Philox defines") {
    // The second offset crosses a carry between the halves of the block number; the third is no
    // multiple of a block.
    for (const uint64_t offset : {uint64_t(0), (uint64_t(1) << 34) - 80, uint64_t(4003)}) {
      for_each_target([&](const std::string& name) {
        INFO(name);
        Generator rng(123456789012345, offset);
        const auto y = to_host<float>(dropout(ones({3001}), 0.25, rng));
        bool equal = true;
        for (size_t i = 0; i < y.size(); ++i) {
          const uint32_t word = kernels::philox_word(123456789012345, offset + i);
          const float wanted = kernels::to_uniform(word) >= 0.25f ? 1 / 0.75f : 0;
          equal &= y[i] == wanted;
        }
        CHECK(equal);
      });
    }
  }

  TEST_CASE("a share p is dropped and the mean stays") {
    const int64_t n = 1 << 20;
    for (const double p : {0.1, 0.5, 0.9}) {
      Generator rng(7);
      const auto y = to_host<double>(dropout(ones({n}, {.dtype = f64}), p, rng));
      double dropped = 0, sum = 0, runs = 0;
      for (size_t i = 0; i < y.size(); ++i) {
        dropped += y[i] == 0;
        sum += y[i];
        runs += i > 0 && y[i] == 0 && y[i - 1] == 0;
      }
      const double sigma = std::sqrt(p * (1 - p) / double(n));
      CHECK(std::abs(dropped / double(n) - p) < 5 * sigma);
      CHECK(std::abs(sum / double(n) - 1) < 5 * sigma / (1 - p));
      CHECK(std::abs(runs / double(n) - p * p) < 10 * sigma);  // neighbours are independent
    }
  }

  TEST_CASE("words are counted from the base of the stream") {
    const std::vector<float> x(5000, 1);
    std::vector<float> y(x.size()), want(x.size());
    const auto drop = [&](std::vector<float>& to, uint64_t offset, const uint64_t* base) {
      kernels::run(kernels::Cpu{}, kernels::Dropout{.y = to.data(),
                                                    .x = x.data(),
                                                    .n = int64_t(x.size()),
                                                    .p = 0.3,
                                                    .seed = 7,
                                                    .offset = offset,
                                                    .stream = {.rng_base = base}});
    };
    const uint64_t base = 1003;
    drop(want, 1010, nullptr);
    drop(y, 7, &base);
    CHECK(y == want);
    drop(y, 7, nullptr);
    CHECK(y != want);
  }

  TEST_CASE("calls that follow each other draw different masks") {
    Generator rng(7);
    const Tensor x = ones({1000});
    const auto a = to_host<float>(dropout(x, 0.5, rng)), b = to_host<float>(dropout(x, 0.5, rng));
    CHECK(rng.offset() == 2000);
    int same = 0;
    for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
    CHECK(std::abs(same - 500) < 80);
    rng.set_state(7, 0);
    CHECK(to_host<float>(dropout(x, 0.5, rng)) == a);
  }

  TEST_CASE("backward uses the mask of forward") {
    Generator rng(3);
    const Tensor x = ones({77, 13});
    set_requires_grad(x);
    const Tensor y = dropout(x, 0.4, rng);
    rng.set_state(99, 8);
    backward(y, {.gradient = ones(y.shape())});
    check_same_bits(grad(x), y, "mask");
  }

  TEST_CASE("0 keeps and 1 drops everything") {
    Generator rng(3);
    const Tensor x = randn({50}, rng);
    CHECK(dropout(x, 0, rng).is_same(x));
    set_requires_grad(x);
    const Tensor y = dropout(x, 1, rng);
    CHECK(to_host<float>(y) == std::vector<float>(50, 0.0f));
    backward(y, {.gradient = ones({50})});
    CHECK(to_host<float>(grad(x)) == std::vector<float>(50, 0.0f));
  }

  TEST_CASE("what does not fit is refused") {
    Generator rng(1);
    const Tensor x = ones({3});
    check_error([&] { dropout(x, -0.1, rng); }, {"dropout", "-0.1"});
    check_error([&] { dropout(x, 1.5, rng); }, {"dropout", "1.5"});
    check_error([&] { dropout(x, NAN, rng); }, {"dropout", "nan"});
    check_error([&] { dropout(arange(3), 0.5, rng); }, {"dropout", "i64"});
  }
}
