#pragma once
#include <olm/autograd/ops/all_to_all_rows.h>
#include <olm/autograd/ops/arithmetic.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// x [n, 3, 5] of a rank alone, which sends all rows to itself.
inline OpCase all_to_all_rows_case() {
  return {.name = "all_to_all_rows",
          .shape = {-1, 3, 5},
          .op =
              [](const Tensors& in) {
                const dist::Counts rows{in[0].size(0)};
                return all_to_all_rows(in[0], rows, rows, dist::Comm());
              },
          .composition = [](const Tensors& in) { return in[0] * 1.0; },
          .reduction = [](int64_t) { return 1.0; },
          .cost =
              [](const Shape& s, DType dtype) {
                const double bytes = 2 * double(s.numel()) * double(size_of(dtype));
                return Costs{.forward = {.bytes = bytes}, .both = {.bytes = 2 * bytes}};
              }};
}

}  // namespace olm::test
