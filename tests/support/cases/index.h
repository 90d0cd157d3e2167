#pragma once
#include <olm/autograd/ops/index.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// An index that is smaller or larger than x along the dimensions it may be.
inline OpCase gather_case(int64_t dim) {
  return {.name = "gather along " + std::to_string(dim),
          .inputs =
              [=](Generator& g, const Shape& n) {
                const Shape shape = dim == 1 ? Shape{2, 5, n[0]} : Shape{2, 3, 4};
                const Shape index = dim == 1 ? Shape{2, 7, n[0]} : Shape{2, 2, n[0]};
                return Tensors{randn(shape, g), randint(0, shape[int(dim)], index, g)};
              },
          .op = [=](const Tensors& in) { return gather(in[0], dim, in[1]); }};
}

inline OpCase index_select_case(int64_t dim) {
  return {.name = "index_select along " + std::to_string(dim),
          .inputs =
              [=](Generator& g, const Shape& n) {
                Shape shape{2, 3, 4};
                shape[dim == 0 ? 2 : 0] = n[0];
                return Tensors{randn(shape, g), randint(0, shape[int(dim)], {6}, g)};
              },
          .op = [=](const Tensors& in) { return index_select(in[0], dim, in[1]); },
          .reduction = [](int64_t) { return 6.0; }};
}

/// An index that is smaller than x and src, so that only windows of both take part.
inline OpCase scatter_add_case() {
  return {.name = "scatter_add",
          .inputs =
              [](Generator& g, const Shape& n) {
                return Tensors{randn({3, 4, 6}, g), randint(0, 4, {2, n[0], 5}, g),
                               randn({2, n[0] + 1, 6}, g)};
              },
          .op = [](const Tensors& in) { return scatter_add(in[0], 1, in[1], in[2]); }};
}

inline OpCase one_hot_case() {
  return {
      .name = "one_hot",
      .shape = {2, -1},
      .inputs = [](Generator& g, const Shape& shape) { return Tensors{randint(0, 7, shape, g)}; },
      .op = [](const Tensors& in) { return one_hot(in[0], 7); },
      .unasked = {{Question::gradients, kNotDifferentiable}}};
}

inline OpCases index_cases() {
  return {gather_case(1),       gather_case(2),     index_select_case(0), index_select_case(1),
          index_select_case(2), scatter_add_case(), one_hot_case()};
}

}  // namespace olm::test
