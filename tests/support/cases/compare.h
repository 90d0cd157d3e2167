#pragma once
#include <olm/autograd/ops/compare.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Small whole numbers, many of them equal.
inline Tensor whole_numbers(const Shape& shape, Generator& g) {
  return raw::cast(randint(-2, 3, shape, g), f32);
}

/// Comparisons of a matrix and a row, and of the matrix and a number; what is made of the results.
inline OpCase compare_case() {
  return {.name = "comparisons",
          .shape = {3, -1},
          .inputs =
              [](Generator& g, const Shape& shape) {
                return Tensors{whole_numbers(shape, g), whole_numbers({shape[1]}, g)};
              },
          .op =
              [](const Tensors& in) {
                const Tensor &a = in[0], &b = in[1];
                return Tensors{eq(a, b), ne(a, b), lt(a, b), le(a, b), gt(a, b), ge(a, b),
                               eq(a, 1), ne(a, 1), lt(a, 1), le(a, 1), gt(a, 1), ge(a, 1)};
              },
          .unasked = {{Question::gradients, kNotDifferentiable}}};
}

inline OpCase logic_case() {
  return {.name = "logic",
          .shape = {3, -1},
          .inputs =
              [](Generator& g, const Shape& shape) {
                return Tensors{raw::cast(randint(0, 2, shape, g), boolean),
                               raw::cast(randint(0, 2, shape, g), boolean),
                               whole_numbers(shape, g)};
              },
          .op =
              [](const Tensors& in) {
                return Tensors{logical_and(in[0], in[1]), logical_or(in[0], in[1]),
                               logical_not(in[2]), isnan(in[2])};
              },
          .unasked = {{Question::gradients, kNotDifferentiable}}};
}

}  // namespace olm::test
