#pragma once
#include <olm/autograd/ops/matmul.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Shapes of two factors, where -1 is the awkward size n.
inline OpCase matmul_case(const Shape& a, const Shape& b, const Shape& parallel = {}) {
  return {.name = "matmul of rank " + std::to_string(a.rank()) + " and " + std::to_string(b.rank()),
          .inputs =
              [=](Generator& g, const Shape& n) {
                return Tensors{randn(with_size(a, n[0]), g), randn(with_size(b, n[0]), g)};
              },
          .op = [](const Tensors& in) { return matmul(in[0], in[1]); },
          .sizes = {0, 1, 31, 33, 130},
          .gradient_sizes = {3},
          .parallel = parallel.rank() ? parallel : Shape{1000}};
}

inline OpCases matmul_cases() {
  return {matmul_case({-1, 7}, {7, -1}),
          matmul_case({5, -1}, {-1, 6}),
          matmul_case({-1, -1}, {-1, -1}, {300}),
          matmul_case({-1}, {-1}),
          matmul_case({-1}, {-1, 4}),
          matmul_case({2, 3, -1}, {-1}),
          matmul_case({-1}, {2, -1, 3}),
          matmul_case({2, 3, -1}, {-1, 4}),
          matmul_case({3, -1}, {2, -1, 4}),
          matmul_case({2, 1, 3, -1}, {4, -1, 5}),
          matmul_case({2, 3, 2, -1}, {2, 1, -1, 3})};
}

}  // namespace olm::test
