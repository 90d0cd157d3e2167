#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Shapes of two operands that broadcast, where -1 is the awkward size n.
struct OperandShapes {
  Shape a, b;
};
inline const OperandShapes kBroadcasts[] = {
    {{3, -1}, {3, -1}},   {{3, -1}, {-1}},   {{3, -1}, {3, 1}}, {{-1}, {}},
    {{2, 1, -1}, {4, 1}}, {{-1, 1}, {1, 3}}, {{1}, {2, -1}},    {{2, 3, -1}, {2, 1, -1}}};

/// A function of two operands between 0.5 and 2.5, which do for bases and divisors.
inline OpCase arithmetic_case(const std::string& name, Tensor (*op)(const Tensor&, const Tensor&),
                              const OperandShapes& shapes) {
  return {.name = name,
          .inputs =
              [=](Generator& g, const Shape& n) {
                const auto operand = [&](const Shape& shape) {
                  return uniform(with_size(shape, n[0]), g) * 2 + 0.5;
                };
                return Tensors{operand(shapes.a), operand(shapes.b)};
              },
          .op = [=](const Tensors& in) { return op(in[0], in[1]); },
          .reduction = [](int64_t n) { return 12.0 * double(n); },
          .cancelling = 1,
          .sizes = {0, 1, 33, 1100}};
}

/// Every function on every pair of shapes.
inline OpCases arithmetic_cases() {
  using Fn = Tensor (*)(const Tensor&, const Tensor&);
  OpCases all;
  for (const auto& [name, op] : {std::pair<const char*, Fn>{"add", add},
                                 {"sub", sub},
                                 {"mul", mul},
                                 {"div", div},
                                 {"maximum", maximum},
                                 {"minimum", minimum},
                                 {"pow", pow}})
    for (const OperandShapes& shapes : kBroadcasts)
      all.push_back(arithmetic_case(name, op, shapes));
  return all;
}

/// Numbers on either side.
inline OpCase scalar_arithmetic_case() {
  return {.name = "numbers",
          .shape = {3, -1},
          .op = [](const Tensors& in) { return (2 - in[0]) * 3 + (in[0] + 1) / 2 - -in[0]; },
          .cancelling = 1};
}

}  // namespace olm::test
