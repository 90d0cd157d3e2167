#pragma once
#include <olm/autograd/ops/combine.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Three tensors, one of them longer along `dim`.
inline OpCase cat_case(int64_t dim) {
  return {.name = "cat along " + std::to_string(dim),
          .shape = {2, 3, -1},
          .inputs =
              [=](Generator& g, const Shape& a) {
                Shape b = a;
                b[normalize_dim("test", dim, 3)] += 2;
                return Tensors{randn(a, g), randn(b, g), randn(a, g)};
              },
          .op = [=](const Tensors& in) { return cat(in, dim); }};
}

inline OpCase stack_case(int64_t dim) {
  return {.name = "stack along " + std::to_string(dim),
          .shape = {2, -1},
          .inputs =
              [](Generator& g, const Shape& shape) {
                return Tensors{randn(shape, g), randn(shape, g), randn(shape, g)};
              },
          .op = [=](const Tensors& in) { return stack(in, dim); }};
}

}  // namespace olm::test
