#pragma once
#include <olm/autograd/ops/compare.h>
#include <olm/autograd/ops/where.h>

#include <tests/support/op_case.h>

namespace olm::test {

inline Tensors where_inputs(Generator& g, const Shape& shape) {
  return {lt(randn(shape, g), 0), randn(shape, g), randn({shape[1]}, g)};
}

inline OpCase where_case() {
  return {.name = "where", .shape = {3, -1}, .inputs = where_inputs, .op = [](const Tensors& in) {
            return where(in[0], in[1], in[2]);
          }};
}

inline OpCase masked_fill_case() {
  return {.name = "masked_fill, where with a number",
          .shape = {3, -1},
          .inputs = where_inputs,
          .op = [](const Tensors& in) {
            return Tensors{masked_fill(in[1], in[0], 0.5), where(in[0], in[1], 2.0),
                           where(in[0], 2.0, in[2])};
          }};
}

inline OpCase triangle_case(const std::string& name, Tensor (*op)(const Tensor&, int64_t),
                            int64_t diagonal) {
  return {.name = name, .shape = {2, 7, -1}, .op = [=](const Tensors& in) {
            return op(in[0], diagonal);
          }};
}

inline OpCases where_cases() {
  return {where_case(), masked_fill_case(), triangle_case("tril", tril, 0),
          triangle_case("tril below", tril, -1), triangle_case("triu", triu, 2)};
}

}  // namespace olm::test
