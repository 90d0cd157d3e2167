#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/gated.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/select.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// A gated linear unit, the shape being its result's: a · gate(b) of the halves a, b of x.
inline OpCase gated_case(const std::string& name, Tensor (*unit)(const Tensor&),
                         Tensor (*gate)(const Tensor&)) {
  return {.name = name,
          .shape = {3, 2, -1},
          .inputs =
              [](Generator& g, const Shape& shape) {
                return Tensors{randn(extended(leading(shape), 2 * shape[shape.rank() - 1]), g)};
              },
          .op = [=](const Tensors& in) { return unit(in[0]); },
          .composition =
              [=](const Tensors& in) {
                const int64_t hidden = in[0].size(-1) / 2;
                return slice(in[0], -1, 0, hidden) * gate(slice(in[0], -1, hidden));
              },
          .reduction = [](int64_t) { return 1.0; },
          .parallel = {300, 257},
          .cost =
              [](const Shape& shape, DType dtype) {
                const double bytes = double(shape.numel()) * double(size_of(dtype));
                return Costs{.forward = {.bytes = 3 * bytes, .traffic = Traffic::axpy},
                             .both = {.bytes = 8 * bytes, .traffic = Traffic::axpy}};
              }};
}

inline OpCase swiglu_case() { return gated_case("swiglu", swiglu, silu); }

inline OpCases gated_cases() {
  return {swiglu_case(),
          gated_case("geglu", geglu, gelu),
          gated_case("geglu_tanh", geglu_tanh, gelu_tanh),
          gated_case("reglu", reglu, relu),
          gated_case("liglu", liglu, [](const Tensor& b) { return b; }),
          gated_case("glu", glu, sigmoid)};
}

}  // namespace olm::test
