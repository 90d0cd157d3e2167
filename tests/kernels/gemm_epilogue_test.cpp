#include <olm/kernels/gemm.h>

#include <doctest/doctest.h>

using namespace olm;
using namespace olm::kernels;

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
}
