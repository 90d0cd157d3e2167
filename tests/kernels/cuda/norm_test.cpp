// Norms of rows that are longer than the registers of a block hold.
#include <doctest/doctest.h>

#include <olm/autograd/ops/norm.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

/// y, dx, dweight and dbias of a LayerNorm.
Tensors norm_and_gradients(const Tensors& in) {
  Tensors leaves;
  for (int i = 0; i < 3; ++i) {
    leaves.push_back(raw::clone(in[size_t(i)]));
    set_requires_grad(leaves.back());
  }
  const Tensor y = layer_norm(leaves[0], leaves[1], leaves[2], 1e-5);
  Tensors all = gradients({y}, {in[3]}, leaves);
  all.insert(all.begin(), y);
  return all;
}

}  // namespace

TEST_SUITE("kernels/cuda/norm") {
  TEST_CASE("Rows longer than a block's registers have the same norm and gradients") {
    if (test_device() == cpu) return;
    for (const int64_t cols : {17000, 4099}) {  // in vectors, and in single elements
      Generator rng(3);
      const Tensors host{randn({3, cols}, rng), randn({cols}, rng), randn({cols}, rng),
                         randn({3, cols}, rng)};
      Tensors device;
      for (const Tensor& x : host) device.push_back(on_test_device(x));
      const Tensors wanted = norm_and_gradients(host), got = norm_and_gradients(device);
      for (size_t i = 0; i < wanted.size(); ++i)
        check_close(got[i], wanted[i], f32, double(cols), std::to_string(cols) + " columns");
    }
  }
}
