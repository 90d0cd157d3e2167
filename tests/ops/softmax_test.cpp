#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/softmax.h>
#include <tests/support/cases/softmax.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

OLM_OP_SUITE("ops/softmax", softmax_cases())

TEST_SUITE("ops/softmax") {
  TEST_CASE("the formula holds along every dimension") {
    Generator g(2);
    const Tensor x = randn({3, 4, 5}, g, {.dtype = f64});
    const std::vector<double> v = to_host<double>(x);
    const std::vector<double> y = to_host<double>(softmax(x, 1));
    const std::vector<double> l = to_host<double>(log_softmax(x, 1));
    for (size_t a = 0; a < 3; ++a)
      for (size_t c = 0; c < 5; ++c) {
        double sum = 0;
        for (size_t b = 0; b < 4; ++b) sum += std::exp(v[(a * 4 + b) * 5 + c]);
        for (size_t b = 0; b < 4; ++b) {
          const size_t i = (a * 4 + b) * 5 + c;
          CHECK(y[i] == doctest::Approx(std::exp(v[i]) / sum).epsilon(1e-12));
          CHECK(l[i] == doctest::Approx(v[i] - std::log(sum)).epsilon(1e-12));
        }
      }
  }

  TEST_CASE("large values do not overflow, infinities mean what they say") {
    const float inf = INFINITY;
    const Tensor x = from_host<float>({3e38f, 3e38f, -3e38f, -inf,  //
                                       -1e4f, -1e4f, -inf, -inf,    //
                                       -inf, -inf, -inf, -inf},
                                      {3, 4});
    set_requires_grad(x);
    const Tensor y = softmax(x), l = log_softmax(x);
    const std::vector<float> p = to_host<float>(y), q = to_host<float>(l);
    const float wanted[] = {0.5, 0.5, 0, 0, 0.5, 0.5, 0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < 12; ++i) CHECK(p[i] == wanted[i]);
    CHECK(q[4] == doctest::Approx(std::log(0.5)));
    for (size_t i = 8; i < 12; ++i) CHECK(q[i] == -inf);
    const Tensor dy = from_host<float>({1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}, {3, 4});
    backward(y, {.gradient = dy});
    const std::vector<float> dx = to_host<float>(grad(x));
    const float wanted_dx[] = {-0.25, 0.25, 0, 0, -0.25, 0.25, 0, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < 12; ++i) CHECK(dx[i] == doctest::Approx(wanted_dx[i]));
    zero_grad(x);
    backward(l, {.gradient = dy});
    const std::vector<float> dl = to_host<float>(grad(x));
    for (size_t i = 8; i < 12; ++i) CHECK(dl[i] == 0);
    CHECK(dl[4] == doctest::Approx(1 - 0.5 * 10));
  }

  TEST_CASE("NaN is not hidden") {
    for (const size_t at : {0, 3, 16, 20}) {
      for (const float rest : {0.0f, -INFINITY}) {
        std::vector<float> v(21, rest);
        v[at] = NAN;
        const Tensor x = from_host(v, {1, 21});
        for (const float p : to_host<float>(softmax(x))) CHECK(std::isnan(p));
        for (const float p : to_host<float>(log_softmax(x))) CHECK(std::isnan(p));
      }
    }
  }

  TEST_CASE("log_softmax keeps what softmax loses") {
    const Tensor x = from_host<float>({0, -200}, {2});
    CHECK(to_host<float>(log_softmax(x))[1] == doctest::Approx(-200));
    CHECK(to_host<float>(log_softmax(x))[0] == 0);
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    const Tensor x = randn({2, 3}, g);
    check_error([&] { softmax(x, 2); }, {"softmax", "[2,3]", "2"});
    check_error([&] { log_softmax(x, -3); }, {"log_softmax", "-3"});
    check_error([&] { softmax(arange(3)); }, {"softmax", "i64"});
    check_error([&] { softmax(randn({}, g)); }, {"softmax", "scalar"});
  }
}
