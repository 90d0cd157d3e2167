#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include <olm/autograd/ops/pointwise.h>
#include <tests/support/cases/pointwise.h>
#include <tests/support/op_suite.h>

using namespace olm;
using namespace olm::test;

namespace {

struct Function {
  std::string name;
  Tensor (*op)(const Tensor&);
  bool positive;  // defined above 0 only
  // What PyTorch computes in f64 at kAnywhere or kPositive: values and derivatives.
  std::vector<double> values, slopes;
};

const std::vector<double> kAnywhere = {-3, -0.75, 0.25, 1.5, 4};
const std::vector<double> kPositive = {0.1, 0.75, 1.25, 2.5, 4};

// clang-format off
const std::vector<Function> kFunctions = {
    {"neg", [](const Tensor& x) { return neg(x); }, false,
     {3, 0.75, -0.25, -1.5, -4},
     {-1, -1, -1, -1, -1}},
    {"abs", [](const Tensor& x) { return abs(x); }, false,
     {3, 0.75, 0.25, 1.5, 4},
     {-1, -1, 1, 1, 1}},
    {"square", [](const Tensor& x) { return square(x); }, false,
     {9, 0.5625, 0.0625, 2.25, 16},
     {-6, -1.5, 0.5, 3, 8}},
    {"reciprocal", [](const Tensor& x) { return reciprocal(x); }, true,
     {10, 1.33333333333333, 0.8, 0.4, 0.25},
     {-100, -1.77777777777778, -0.64, -0.16, -0.0625}},
    {"exp", [](const Tensor& x) { return exp(x); }, false,
     {0.0497870683678639, 0.472366552741015, 1.28402541668774, 4.48168907033806, 54.5981500331442},
     {0.0497870683678639, 0.472366552741015, 1.28402541668774, 4.48168907033806, 54.5981500331442}},
    {"log", [](const Tensor& x) { return log(x); }, true,
     {-2.30258509299405, -0.287682072451781, 0.22314355131421, 0.916290731874155, 1.38629436111989},
     {10, 1.33333333333333, 0.8, 0.4, 0.25}},
    {"log1p", [](const Tensor& x) { return log1p(x); }, true,
     {0.0953101798043249, 0.559615787935423, 0.810930216216329, 1.25276296849537, 1.6094379124341},
     {0.909090909090909, 0.571428571428571, 0.444444444444444, 0.285714285714286, 0.2}},
    {"sqrt", [](const Tensor& x) { return sqrt(x); }, true,
     {0.316227766016838, 0.866025403784439, 1.11803398874989, 1.58113883008419, 2},
     {1.58113883008419, 0.577350269189626, 0.447213595499958, 0.316227766016838, 0.25}},
    {"rsqrt", [](const Tensor& x) { return rsqrt(x); }, true,
     {3.16227766016838, 1.15470053837925, 0.894427190999916, 0.632455532033676, 0.5},
     {-15.8113883008419, -0.769800358919501, -0.357770876399966, -0.126491106406735, -0.0625}},
    {"sin", [](const Tensor& x) { return sin(x); }, false,
     {-0.141120008059867, -0.681638760023334, 0.247403959254523, 0.997494986604054, -0.756802495307928},
     {-0.989992496600445, 0.731688868873821, 0.968912421710645, 0.0707372016677029, -0.653643620863612}},
    {"cos", [](const Tensor& x) { return cos(x); }, false,
     {-0.989992496600445, 0.731688868873821, 0.968912421710645, 0.0707372016677029, -0.653643620863612},
     {0.141120008059867, 0.681638760023334, -0.247403959254523, -0.997494986604054, 0.756802495307928}},
    {"erf", [](const Tensor& x) { return erf(x); }, false,
     {-0.999977909503001, -0.711155633653515, 0.276326390168237, 0.966105146475311, 0.999999984582742},
     {0.000139253051946748, 0.642931069195207, 1.06001412937611, 0.118930289223629, 1.26982346718666e-07}},
    {"tanh", [](const Tensor& x) { return tanh(x); }, false,
     {-0.99505475368673, -0.635148952387287, 0.244918662403709, 0.905148253644866, 0.999329299739067},
     {0.00986603716544017, 0.596585808281331, 0.940014848806378, 0.180706638923649, 0.00134095068302592}},
    {"sigmoid", [](const Tensor& x) { return sigmoid(x); }, false,
     {0.0474258731775668, 0.320821300824607, 0.562176500885798, 0.817574476193644, 0.982013790037908},
     {0.0451766597309121, 0.217894993761814, 0.246134082737598, 0.149146452070333, 0.0176627062132911}},
    {"relu", [](const Tensor& x) { return relu(x); }, false,
     {0, 0, 0.25, 1.5, 4},
     {0, 0, 1, 1, 1}},
    {"selu", [](const Tensor& x) { return selu(x); }, false,
     {-1.67056872876711, -0.927632015835051, 0.26267524683887, 1.57605148103322, 4.20280394942192},
     {0.0875306120802649, 0.830467325012325, 1.05070098735548, 1.05070098735548, 1.05070098735548}},
    {"gelu", [](const Tensor& x) { return gelu(x); }, false,
     {-0.00404969409489031, -0.169970514282651, 0.149676581420731, 1.39978919809671, 3.99987331503267},
     {-0.0119456472041839, 0.000774278260764816, 0.695373354883636, 1.12746919222998, 1.00050364966123}},
    {"gelu_tanh", [](const Tensor& x) { return gelu_tanh(x); }, false,
     {-0.00363739208177299, -0.17003944483438, 0.149675350701685, 1.39957157698023, 3.99992975405181},
     {-0.0115841666309697, 0.00106174386258565, 0.69535409515106, 1.12771079315143, 1.00033512319712}},
    {"silu", [](const Tensor& x) { return silu(x); }, false,
     {-0.1422776195327, -0.240615975618455, 0.14054412522145, 1.22636171429047, 3.92805516015163},
     {-0.0881041060151696, 0.157400055503247, 0.623710021570198, 1.04129415429914, 1.05266461489107}},
    {"mish", [](const Tensor& x) { return mish(x); }, false,
     {-0.145647461275625, -0.276494714505465, 0.169572409663818, 1.4033782663958, 3.99741280697624},
     {-0.0933931145323208, 0.160745740499839, 0.754172667720593, 1.08848798500785, 1.00443287690375}},
    {"relu_squared", [](const Tensor& x) { return relu_squared(x); }, false,
     {0, 0, 0.0625, 2.25, 16},
     {0, 0, 0.5, 3, 8}},
    {"pow2.5", [](const Tensor& x) { return pow(x, 2.5); }, true,
     {0.00316227766016838, 0.487139289628747, 1.74692810742171, 9.88211768802619, 32},
     {0.0790569415042095, 1.62379763209582, 3.49385621484342, 9.88211768802618, 20}},
    {"clamp", [](const Tensor& x) { return clamp(x, -1, 2); }, false,
     {-1, -0.75, 0.25, 1.5, 2},
     {0, 1, 1, 1, 0}},
    {"leaky_relu", [](const Tensor& x) { return leaky_relu(x, 0.1); }, false,
     {-0.3, -0.075, 0.25, 1.5, 4},
     {0.1, 0.1, 1, 1, 1}},
    {"elu", [](const Tensor& x) { return elu(x, 1.5); }, false,
     {-1.4253193974482, -0.791450170888478, 0.25, 1.5, 4},
     {0.0746806025517959, 0.708549829111522, 1, 1, 1}},
    {"softplus", [](const Tensor& x) { return softplus(x, 2, 5); }, false,
     {0.00123784256886522, 0.100706638991376, 0.487038492090053, 1.52429367578687, 4},
     {0.00247262315663477, 0.182425523806356, 0.622459331201855, 0.952574126822433, 1}},
};
// clang-format on

OpCases pointwise_cases() {
  OpCases all;
  for (const Function& f : kFunctions) all.push_back(pointwise_case(f.name, f.op, f.positive));
  return all;
}

const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

OLM_OP_SUITE("ops/pointwise", pointwise_cases())

TEST_SUITE("ops/pointwise") {
  TEST_CASE("values and derivatives are PyTorch's") {
    for (const Function& f : kFunctions) {
      CAPTURE(f.name);
      const Tensor x = from_host(f.positive ? kPositive : kAnywhere, {5});
      set_requires_grad(x);
      const Tensor y = f.op(x);
      backward(y, {.gradient = ones({5}, {.dtype = f64})});
      check_close(y, from_host(f.values, {5}), f64, 10, "values");
      check_close(grad(x), from_host(f.slopes, {5}), f64, 10, "derivatives");
    }
  }

  TEST_CASE("f32 is accurate over the whole range") {
    std::vector<float> v;
    for (int i = -4000; i <= 4000; ++i) v.push_back(float(i) * 0.021f);
    const Tensor x = from_host(v, {int64_t(v.size())}), wide = raw::cast(x, f64);
    for (const Function& f : kFunctions) {
      if (f.positive) continue;
      CAPTURE(f.name);
      const std::vector<double> got = to_host<double>(f.op(x)), want = to_host<double>(f.op(wide));
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        if (std::abs(want[i]) < 1e-4 || v[i] < -20) continue;
        worst = std::max(worst, std::abs(got[i] - want[i]) / std::abs(want[i]));
      }
      CHECK(worst < 2e-6);
    }
  }

  TEST_CASE("bf16 is accurate to its rounding over the whole range, far tails too") {
    std::vector<float> v;
    for (int i = -3200; i <= 3200; ++i) v.push_back(float(bfloat16_t(float(i) * 0.004f)));
    const Tensor x = from_host(v, {int64_t(v.size())}), narrow = raw::cast(x, bf16);
    const Tensor wide = raw::cast(x, f64);
    for_each_target([&](const std::string& target) {
      CAPTURE(target);
      for (const Function& f : kFunctions) {
        if (f.positive || f.name == "sin" || f.name == "cos") continue;
        CAPTURE(f.name);
        const auto worst = [&](const Tensor& got, const Tensor& want, double least) {
          const auto g = to_host<double>(got), w = to_host<double>(want);
          double worst = 0;
          for (size_t i = 0; i < g.size(); ++i)
            worst = std::max(worst, std::abs(g[i] - w[i]) / std::max(std::abs(w[i]), least));
          return worst;
        };
        const auto slope = [&](const Tensor& at) {
          set_requires_grad(at);
          backward(f.op(at), {.gradient = ones(at.shape(), {.dtype = at.dtype()})});
          const Tensor g = grad(at);
          zero_grad({at});
          return g;
        };
        const double rounding = 0x1p-8 + 0x1p-12;
        CHECK(worst(f.op(narrow), f.op(wide), 1e-30) < rounding);
        // Slopes that change their sign lose digits there; some are written in the rounded value.
        CHECK(worst(slope(narrow), slope(wide), 0.25) < 4 * rounding);
      }
    });
  }

  TEST_CASE("infinities and NaN go where they should") {
    struct Row {
      Tensor (*op)(const Tensor&);
      float minus, plus, zero;
    };
    const Row rows[] = {{exp, 0, kInf, 1},      {log, kNan, kInf, -kInf}, {sqrt, kNan, kInf, 0},
                        {rsqrt, kNan, 0, kInf}, {tanh, -1, 1, 0},         {erf, -1, 1, 0},
                        {sigmoid, 0, 1, 0.5f},  {relu, 0, kInf, 0},       {abs, kInf, kInf, 0},
                        {square, kInf, kInf, 0}};
    for_each_target([&](const std::string& name) {
      CAPTURE(name);
      for (const Row& row : rows) {
        CAPTURE(&row - rows);
        const Tensor x = from_host<float>({-kInf, kInf, 0, kNan}, {4});
        const std::vector<float> y = to_host<float>(row.op(x));
        CHECK(same(y[0], row.minus));
        CHECK(same(y[1], row.plus));
        CHECK(same(y[2], row.zero));
        CHECK(std::isnan(y[3]));
      }
    });
  }

  TEST_CASE("activations stay finite at large numbers, with their derivatives") {
    for (Tensor (*op)(const Tensor&) : {gelu, gelu_tanh, silu, mish, sigmoid, tanh}) {
      for (const DType dtype : {f32, bf16, f64}) {
        const Tensor x =
            raw::cast(from_host<float>({-3e38f, -1e20f, -100, 100, 1e20f, 3e38f}, {6}), dtype);
        set_requires_grad(x);
        const Tensor y = op(x);
        backward(y, {.gradient = ones({6}, {.dtype = dtype})});
        CHECK(!raw::has_nonfinite(y));
        CHECK(!raw::has_nonfinite(grad(x)));
      }
    }
  }

  TEST_CASE("integers have what makes sense for them") {
    const Tensor x = from_host<int64_t>({-3, 0, 5}, {3});
    CHECK(to_host<int64_t>(neg(x)) == std::vector<int64_t>{3, 0, -5});
    CHECK(to_host<int64_t>(abs(x)) == std::vector<int64_t>{3, 0, 5});
    CHECK(to_host<int64_t>(sign(x)) == std::vector<int64_t>{-1, 0, 1});
    CHECK(to_host<int64_t>(square(x)) == std::vector<int64_t>{9, 0, 25});
    CHECK(to_host<int64_t>(clamp(x, -1, 2)) == std::vector<int64_t>{-1, 0, 2});
    CHECK(relu(raw::cast(x, i32)).dtype() == i32);
    check_error([&] { exp(x); }, {"exp", "i64"});
    check_error([&] { neg(raw::cast(x, boolean)); }, {"neg", "bool"});
    check_error([&] { clamp(x, 1.5, 4); }, {"clamp", "1.5", "i64"});
    check_error([&] { clamp(x, 0, INFINITY); }, {"clamp", "inf", "i64"});
    check_error([&] { clamp(raw::cast(x, i32), -0x1p40, 4); }, {"clamp", "i32"});
  }

  TEST_CASE("parameters out of range are refused") {
    const Tensor x = ones({2});
    check_error([&] { clamp(x, 2, 1); }, {"clamp", "2", "1"});
    check_error([&] { softplus(x, 0); }, {"softplus", "beta"});
  }
}
