#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/pointwise.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// A function of each element, of numbers above 0.25 where it is defined for `positive` ones alone.
inline OpCase pointwise_case(const std::string& name, Tensor (*op)(const Tensor&),
                             bool positive = false) {
  OpCase c{.name = name,
           .shape = {3, -1},
           .op = [=](const Tensors& in) { return op(in[0]); },
           .reduction = [](int64_t) { return 1.0; },
           .cancelling = 1,
           .parallel = {300, 257},
           .cost =
               [](const Shape& shape, DType dtype) {
                 const double bytes = double(shape.numel()) * double(size_of(dtype));
                 return Costs{.forward = {.bytes = 2 * bytes},
                              .both = {.bytes = 5 * bytes, .traffic = Traffic::axpy}};
               }};
  if (positive)
    c.inputs = [](Generator& g, const Shape& shape) {
      return Tensors{uniform(shape, g) * 4 + 0.25};
    };
  return c;
}

}  // namespace olm::test
