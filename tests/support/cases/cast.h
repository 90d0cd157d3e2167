#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/cast.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/view.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// To f32, or f64 where x is that.
inline OpCase cast_case() {
  return {.name = "cast", .shape = {3, -1}, .op = [](const Tensors& in) {
            return exp(cast(in[0], in[0].dtype() == f64 ? f64 : f32));
          }};
}

inline OpCase contiguous_case() {
  return {.name = "contiguous", .shape = {3, -1}, .op = [](const Tensors& in) {
            return contiguous(transpose(in[0], 0, 1)) * 2;
          }};
}

}  // namespace olm::test
