#include <doctest/doctest.h>

#include <cmath>

#include <olm/autograd/ops/gated.h>
#include <tests/support/cases/gated.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

using Unit = Tensor (*)(const Tensor&);
constexpr Unit kUnits[] = {swiglu, geglu, geglu_tanh, reglu, liglu, glu};

}  // namespace

OLM_OP_SUITE("ops/gated", gated_cases())

TEST_SUITE("ops/gated") {
  TEST_CASE("values come first, gates second") {
    const double a = 3, gates[] = {-2.5, -0.1, 0, 0.7, 4};
    for (const double b : gates) {
      const Tensor x = from_host<double>({a, b}, {2});
      const double s = 1 / (1 + std::exp(-b)), phi = 0.5 * std::erfc(-b / std::sqrt(2.0));
      const auto approx = [](double v) { return doctest::Approx(v).epsilon(1e-12); };
      CHECK(swiglu(x).item<double>() == approx(a * b * s));
      CHECK(geglu(x).item<double>() == approx(a * b * phi));
      CHECK(reglu(x).item<double>() == approx(a * std::max(b, 0.0)));
      CHECK(liglu(x).item<double>() == approx(a * b));
      CHECK(glu(x).item<double>() == approx(a * s));
    }
  }

  TEST_CASE("f32 gates are accurate far from zero too") {
    std::vector<float> v;
    for (int i = -800; i < 800; ++i) v.push_back(float(i) / 80);
    std::vector<float> packed(v.size(), 1.0f);
    packed.insert(packed.end(), v.begin(), v.end());
    const Tensor x = from_host(packed, {int64_t(packed.size())});
    const std::vector<float> silu = to_host<float>(swiglu(x)), gelu = to_host<float>(geglu(x));
    for (size_t i = 0; i < v.size(); ++i) {
      const double b = v[i], s = b / (1 + std::exp(-b)), e = b * 0.5 * std::erfc(-b * M_SQRT1_2);
      CHECK(std::abs(silu[i] - s) <= 1e-6 * std::abs(s));
      CHECK(std::abs(gelu[i] - e) <= 1e-5 * std::abs(e));
    }
  }

  TEST_CASE("large gates saturate without NaN; NaN stays") {
    for (const Unit unit : {swiglu, geglu, geglu_tanh, glu}) {
      const Tensor x = from_host<float>({1, 1, 1, 1, 1000, -1000, 3e38f, -3e38f}, {8});
      set_requires_grad(x);
      const Tensor y = unit(x);
      backward(y, {.gradient = ones({4})});
      for (const float v : to_host<float>(y)) CHECK(std::isfinite(v));
      for (const float v : to_host<float>(grad(x))) CHECK(std::isfinite(v));
      CHECK(std::abs(to_host<float>(y)[1]) < 1e-30);
    }
    for (const Unit unit : kUnits)
      CHECK(std::isnan(to_host<float>(unit(from_host<float>({1, NAN}, {2})))[0]));
  }

  TEST_CASE("what does not fit is refused") {
    Generator g(1);
    check_error([&] { swiglu(randn({2, 3}, g)); }, {"swiglu", "even", "[2,3]"});
    check_error([&] { glu(arange(4)); }, {"glu", "i64"});
    check_error([&] { geglu(randn({}, g)); }, {"geglu"});
  }
}
