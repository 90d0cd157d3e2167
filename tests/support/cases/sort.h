#pragma once
#include <olm/autograd/ops/sort.h>

#include <tests/support/op_case.h>

namespace olm::test {

inline OpCase topk_case() {
  return {.name = "topk",
          .shape = {3, 2, -1},
          .op =
              [](const Tensors& in) {
                const Sorted top = topk(in[0], std::min<int64_t>(3, in[0].size(-1)));
                return Tensors{top.values, top.indices};
              },
          .reduction = [](int64_t) { return 1.0; },
          .parallel = {300, 257}};
}

inline OpCase sort_case(bool descending) {
  return {.name = descending ? "sort, descending" : "sort",
          .shape = {2, -1, 3},
          .op =
              [=](const Tensors& in) {
                const Sorted s = sort(in[0], 1, descending);
                return Tensors{s.values, s.indices, argsort(in[0], -1, descending)};
              },
          .reduction = [](int64_t) { return 1.0; },
          .parallel = {300, 257, 2}};
}

}  // namespace olm::test
