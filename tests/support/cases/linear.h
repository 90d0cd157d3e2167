#pragma once
#include <olm/autograd/ops/arithmetic.h>
#include <olm/autograd/ops/linear.h>
#include <olm/autograd/ops/matmul.h>
#include <olm/autograd/ops/pointwise.h>
#include <olm/autograd/ops/view.h>

#include <tests/support/op_case.h>

namespace olm::test {

/// An activation of a linear layer by the op of its name.
inline Tensor activated(Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::relu:
      return relu(x);
    case Activation::gelu:
      return gelu(x);
    case Activation::gelu_tanh:
      return gelu_tanh(x);
    case Activation::silu:
      return silu(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return tanh(x);
  }
  fail("linear: no op for ", name_of(activation));
}

/// x [2, 3, n], weight [9, n], bias [9], residual [2, 3, 9].
inline OpCase linear_case(Activation activation) {
  return {.name = std::string("linear, ") + name_of(activation),
          .shape = {2, 3, -1},
          .inputs =
              [](Generator& g, const Shape& x) {
                constexpr int64_t kOut = 9;
                return Tensors{randn(x, g), randn({kOut, x[2]}, g), randn({kOut}, g),
                               randn(extended(leading(x), kOut), g)};
              },
          .op =
              [=](const Tensors& in) {
                return linear(in[0], in[1], in[2], {.activation = activation, .residual = in[3]});
              },
          .composition =
              [=](const Tensors& in) {
                return activated(activation, matmul(in[0], transpose(in[1], 0, 1)) + in[2]) + in[3];
              },
          .parameters = {1, 2},
          .cancelling = 1,
          .sizes = {0, 1, 31, 33, 130},
          .parallel = {7, 100, 90}};
}

/// Neither bias nor activation, n rows and n columns.
inline OpCase plain_linear_case() {
  return {.name = "linear",
          .shape = {-1, 7},
          .inputs =
              [](Generator& g, const Shape& x) {
                return Tensors{randn(x, g), randn(x, g)};
              },
          .op = [](const Tensors& in) { return linear(in[0], in[1]); },
          .composition = [](const Tensors& in) { return matmul(in[0], transpose(in[1], 0, 1)); },
          .parameters = {1},
          .sizes = {0, 1, 31, 33, 130},
          .parallel = {700, 90}};
}

/// Three weights on one input, the second without a bias.
inline OpCase several_linear_case() {
  return {.name = "linear of several weights",
          .shape = {2, 3, -1},
          .inputs =
              [](Generator& g, const Shape& x) {
                const int64_t n = x[2];
                return Tensors{randn(x, g),      randn({4, n}, g), randn({2, n}, g),
                               randn({4, n}, g), randn({4}, g),    randn({4}, g)};
              },
          .op =
              [](const Tensors& in) {
                return linear(in[0], Tensors{in[1], in[2], in[3]}, Tensors{in[4], Tensor(), in[5]});
              },
          .composition =
              [](const Tensors& in) {
                const auto product = [&](size_t i) {
                  return matmul(in[0], transpose(in[i], 0, 1));
                };
                return Tensors{product(1) + in[4], product(2), product(3) + in[5]};
              },
          .parameters = {1, 2, 3, 4, 5},
          .cancelling = 1,
          .sizes = {0, 1, 31, 33, 130},
          .parallel = {7, 100, 90}};
}

inline OpCases linear_cases() {
  OpCases all{plain_linear_case(), several_linear_case()};
  for (const Activation activation : kActivations) all.push_back(linear_case(activation));
  return all;
}

}  // namespace olm::test
