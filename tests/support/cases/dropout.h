#pragma once
#include <olm/autograd/ops/dropout.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// The generator starts anew in each call.
inline OpCase dropout_case() {
  return {.name = "dropout",
          .shape = {3, 5, -1},
          .op =
              [](const Tensors& in) {
                Generator rng(9, 20);
                return dropout(in[0], 0.3, rng);
              },
          .reduction = [](int64_t) { return 1.0; }};
}

}  // namespace olm::test
