#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/reduce.h>
#include <olm/autograd/ops/softmax.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// Along `dim`, which is the one of awkward size.
inline OpCase softmax_case(int64_t dim = -1, const Shape& shape = {4, 3, -1}) {
  return {.name = "softmax",
          .shape = shape,
          .op = [=](const Tensors& in) { return softmax(in[0], dim); },
          .composition =
              [=](const Tensors& in) {
                const Tensor e = exp(in[0]);
                return e / sum(e, dim, {.keepdim = true});
              },
          .parallel = {300, 257},
          .cost =
              [](const Shape& sizes, DType dtype) {
                const double bytes = double(sizes.numel()) * double(size_of(dtype));
                return Costs{.forward = {.bytes = 2 * bytes},
                             .both = {.bytes = 5 * bytes, .traffic = Traffic::axpy}};
              }};
}

inline OpCase log_softmax_case(int64_t dim = -1, const Shape& shape = {4, 3, -1}) {
  OpCase c = softmax_case(dim, shape);
  c.name = "log_softmax";
  c.op = [=](const Tensors& in) { return log_softmax(in[0], dim); };
  c.composition = [=](const Tensors& in) {
    return in[0] - logsumexp(in[0], dim, {.keepdim = true});
  };
  c.cancelling = c.gradient_cancelling = 1;
  return c;
}

inline OpCases softmax_cases() {
  OpCases all{softmax_case(), softmax_case(0, {-1, 4, 3}), softmax_case(2, {2, 2, 3, -1}),
              log_softmax_case(), log_softmax_case(1, {2, -1, 3})};
  for (OpCase& c : all)  // the dimension that is reduced may not be the last one
    if (c.shape.rank() != 3 || c.shape[2] != -1) c.parallel = {};
  return all;
}

}  // namespace olm::test
