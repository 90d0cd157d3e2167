#pragma once
#include <olm/autograd/ops/inplace.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Everything that writes, into fresh copies of x.
inline OpCase inplace_case() {
  return {.name = "writing",
          .shape = {3, -1},
          .inputs =
              [](Generator& g, const Shape& shape) {
                return Tensors{randn(shape, g), randn({shape[1]}, g)};
              },
          .op =
              [](const Tensors& in) {
                const NoGrad guard;
                const auto x = [&] { return raw::clone(in[0]); };
                const Tensors y{x(), x(), x(), x()};
                add_(y[0], in[1], 2);
                mul_(y[1], 3);
                fill_(y[2], 4);
                copy_(y[3], in[1]);
                return y;
              },
          .cancelling = 1,
          .unasked = {{Question::gradients, "writing in place is not recorded"}}};
}

}  // namespace olm::test
