#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/select.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Parts of x [2, 5, n].
inline OpCase select_case(const std::string& name, OpFunction op) {
  return {.name = name, .shape = {2, 5, -1}, .op = std::move(op), .cancelling = 1};
}

inline OpCases select_cases() {
  return {select_case("slice", [](const Tensors& in) { return slice(in[0], 1, 1, 4) * 1.5; }),
          select_case("slice by steps",
                      [](const Tensors& in) { return slice(in[0], 1, 0, 5, 2) * 1.5; }),
          select_case("slice from the back",
                      [](const Tensors& in) { return slice(in[0], -2, -2) * 1.5; }),
          select_case("select", [](const Tensors& in) { return select(in[0], 1, -1) * 1.5; }),
          select_case("split",
                      [](const Tensors& in) {
                        const Tensors parts = split(in[0], 2, 1);
                        return parts[0] * parts[1];  // the third gets no gradient
                      }),
          select_case("split by sizes",
                      [](const Tensors& in) {
                        const Tensors parts = split(in[0], std::vector<int64_t>{1, 4}, 1);
                        return parts[0] + parts[1] * 2;
                      }),
          select_case("chunk", [](const Tensors& in) { return chunk(in[0], 2, 0)[1] * 1.5; })};
}

}  // namespace olm::test
