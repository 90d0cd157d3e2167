// Softmax of rows that several warps share, that registers do not hold, and that are not aligned.
#include <doctest/doctest.h>

#include <olm/autograd/ops/softmax.h>
#include <tests/support/checks.h>

using namespace olm;
using namespace olm::test;

namespace {

/// Results and gradients of both softmaxes.
Tensors softmaxes(const Tensor& x, const Tensor& dy) {
  set_requires_grad(x);
  Tensors all;
  for (const Tensor& y : {softmax(x), log_softmax(x)}) {
    all.push_back(y);
    all.push_back(gradients({y}, {dy}, {x})[0]);
  }
  return all;
}

}  // namespace

TEST_SUITE("kernels/cuda/softmax") {
  TEST_CASE("rows of any length and at any address are as on the CPU") {
    if (test_device() == cpu) return;
    for (const int64_t cols : {1000, 1031, 9000, 17000, 17001}) {
      Generator rng(3);
      const Tensor memory = randn({2 * cols + 1}, rng), dy = randn({2, cols}, rng);
      const auto odd = [&](const Tensor& m) {  // rows that begin behind a multiple of 16 bytes
        return raw::view(raw::slice(m, 0, 1, 2 * cols + 1), {2, cols});
      };
      const Tensors wanted = softmaxes(odd(memory), dy);
      const Tensors got = softmaxes(odd(on_test_device(memory)), on_test_device(dy));
      const Tensors aligned = softmaxes(on_test_device(odd(memory)), on_test_device(dy));
      for (size_t i = 0; i < wanted.size(); ++i) {
        const std::string what = std::to_string(cols) + " columns, " + std::to_string(i);
        check_close(got[i], wanted[i], f32, double(cols), what);
        check_close(aligned[i], wanted[i], f32, double(cols), what + " aligned");
      }
    }
  }
}
