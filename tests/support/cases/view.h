#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/view.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// x of shape [2, 1, 3, n] seen otherwise.
inline OpCase view_case(const std::string& name, Tensor (*op)(const Tensor& x)) {
  return {.name = name,
          .shape = {2, 1, 3, -1},
          .op = [=](const Tensors& in) { return op(in[0]) * 1.5; },
          .sizes = {1, 31, 33, 4099}};
}

inline OpCases view_cases() {
  using X = const Tensor&;
  using S = Shape;
  return {view_case("reshape",
                    [](X x) {
                      return reshape(x, S{3, -1, 2});
                    }),
          view_case("reshape of transposed",
                    [](X x) {
                      return reshape(transpose(x, 0, 2), S{-1, x.size(3)});
                    }),
          view_case("view",
                    [](X x) {
                      return view(contiguous(x), S{6, x.size(3)});
                    }),
          view_case("flatten", [](X x) { return flatten(x, 1, 2); }),
          view_case("flatten all", [](X x) { return flatten(x); }),
          view_case("transpose", [](X x) { return transpose(x, -1, 0); }),
          view_case("permute",
                    [](X x) {
                      return permute(x, S{2, 0, -1, 1});
                    }),
          view_case("expand",
                    [](X x) {
                      return expand(x, S{4, 2, 5, -1, x.size(3)});
                    }),
          view_case("squeeze", [](X x) { return squeeze(x, 1); }),
          view_case("squeeze of another", [](X x) { return squeeze(x, 0); }),
          view_case("unsqueeze", [](X x) { return unsqueeze(x, -1); })};
}

}  // namespace olm::test
