#include <olm/kernels/gemm.h>

#include <doctest/doctest.h>

#include <tests/kernels/gemm_values.h>

using namespace olm;
using namespace olm::kernels;
using namespace olm::test;

TEST_SUITE("kernels/gemm_epilogue") {
  TEST_CASE("slopes of activations far out are 0 and 1") {
    const float far[] = {-3e38f, -2e19f, 2e19f, 3e38f};
    for (const Activation act : {Activation::relu, Activation::gelu, Activation::gelu_tanh}) {
      const float ones[] = {1, 1, 1, 1};
      float dz[4] = {};
      run(Cpu{}, GemmEpilogueBackward{
                     .dy = ones, .z = far, .dz = dz, .rows = 1, .cols = 4, .activation = act});
      for (int i = 0; i < 4; ++i) CHECK(dz[i] == (i < 2 ? 0 : 1));
    }
  }

  TEST_CASE("slopes in the tails of activations keep their digits in bf16") {
    for (const Activation act : {Activation::sigmoid, Activation::silu, Activation::gelu_tanh}) {
      bfloat16_t dy[16], z[16], dz[16];
      for (int i = 0; i < 16; ++i) {
        dy[i] = bfloat16_t(1.0f);
        z[i] = bfloat16_t(float(i) - 4);
      }
      run(Cpu{},
          GemmEpilogueBackward{
              .dtype = bf16, .dy = dy, .z = z, .dz = dz, .rows = 1, .cols = 16, .activation = act});
      for (int i = 0; i < 16; ++i) {
        const double x = i - 4, h = 1e-4;
        const double slope = (activated(act, x + h) - activated(act, x - h)) / (2 * h);
        CHECK(double(float(dz[i])) == doctest::Approx(slope).epsilon(0x1p-8 + 0x1p-9).scale(0));
      }
    }
  }

  TEST_CASE("rows of dy may lie apart") {
    constexpr int64_t rows = 70, cols = 37, stride = 64;
    for (const Activation act : {Activation::none, Activation::silu}) {
      std::vector<float> tight(rows * cols), apart(rows * stride, NAN), z(rows * cols);
      for (int64_t i = 0; i < rows * cols; ++i) {
        z[size_t(i)] = float(i % 11) - 5;
        tight[size_t(i)] = apart[size_t(i / cols * stride + i % cols)] = float(i % 7) - 3;
      }
      std::vector<float> dz[2], dbias[2];
      for (const bool is_apart : {false, true}) {
        dz[is_apart].resize(rows * cols);
        dbias[is_apart].resize(cols);
        const bool none = act == Activation::none;
        run(Cpu{}, GemmEpilogueBackward{.dy = is_apart ? apart.data() : tight.data(),
                                        .z = none ? nullptr : z.data(),
                                        .dz = none ? nullptr : dz[is_apart].data(),
                                        .dbias = dbias[is_apart].data(),
                                        .rows = rows,
                                        .cols = cols,
                                        .dy_stride = is_apart ? stride : 0,
                                        .activation = act});
      }
      CHECK(dz[0] == dz[1]);
      CHECK(dbias[0] == dbias[1]);
    }
  }

  TEST_CASE("backward of the epilogue") {
    for (const DType t : {f64, f32, bf16, f16})
      for (const Activation act : kActivations)
        for (const int64_t rows : {0, 1, 33, 700})
          for (const bool accumulate : {false, true}) {
            const int64_t cols = 37;
            Values dy = make(t, rows * cols, 1), z = make(t, rows * cols, 2);
            Values dz = make(t, rows * cols, 3), db = make(acc_dtype(t), cols, 4);
            const bool none = act == Activation::none;
            run(Cpu{}, GemmEpilogueBackward{.dtype = t,
                                            .dy = dy.data(),
                                            .z = none ? nullptr : z.data(),
                                            .dz = none ? nullptr : dz.data(),
                                            .dbias = db.data(),
                                            .rows = rows,
                                            .cols = cols,
                                            .activation = act,
                                            .accumulate = accumulate});
            const auto got = read(dz), sums = read(db);
            double worst = 0;
            for (int64_t c = 0; c < cols; ++c) {
              double sum = accumulate ? db.exact[size_t(c)] : 0;
              for (int64_t r = 0; r < rows; ++r) {
                const size_t at = size_t(r * cols + c);
                const double h = 1e-5, slope = (activated(act, z.exact[at] + h) -
                                                activated(act, z.exact[at] - h)) /
                                               (2 * h);
                const bool kink = act == Activation::relu && std::fabs(z.exact[at]) < 2 * h;
                const double want = dy.exact[at] * (kink ? z.exact[at] > 0 : slope);
                sum += want;
                if (!none)
                  worst = std::max(worst, std::fabs(got[at] - want) / (1 + std::fabs(want)));
              }
              const double rough = t == bf16 ? 0x1p-12 : 0;  // of slopes that bf16 asks for
              CHECK(sums[size_t(c)] == doctest::Approx(sum).epsilon(2e-5 + rough).scale(30));
            }
            CHECK(worst < 2 * epsilon(t) + 1e-6 * (t != f64) + 1e-9);
          }
  }
}
