#pragma once
#include <olm/autograd/ops/cumsum.h>

#include <tests/support/op_case.h>

namespace olm::test {

inline OpCase cumsum_case(const Shape& shape, int64_t dim) {
  return {.name = "cumsum",
          .shape = shape,
          .op = [=](const Tensors& in) { return cumsum(in[0], dim); },
          .reduction = [](int64_t n) { return double(n) * double(n); },
          .parallel = with_size(shape, 20000 / int64_t(1 + shape.rank()))};
}

inline OpCases cumsum_cases() {
  return {cumsum_case({2, 3, -1}, -1), cumsum_case({2, -1, 3}, 1), cumsum_case({2, -1, 3}, 0),
          cumsum_case({3, -1, 37}, 1), cumsum_case({3, -1}, 0),    cumsum_case({-1}, 0)};
}

}  // namespace olm::test
