#pragma once
#include <olm/autograd/ops/linear_cross_entropy.h>
#include <olm/autograd/ops/matmul.h>

#include <tests/support/cases/cross_entropy.h>

namespace olm::test {

/// The head of a language model, the shape being [.., classes, d]: x [.., d], weight [classes, d],
/// targets [..].
inline OpCase linear_cross_entropy_case() {
  return {.name = "linear_cross_entropy",
          .shape = {2, -1, 13, 6},
          .inputs =
              [](Generator& g, const Shape& shape) {
                const int64_t classes = shape[shape.rank() - 2], d = shape[shape.rank() - 1];
                const Shape tokens = leading(shape, 2);
                return Tensors{randn(extended(tokens, d), g), uniform({classes, d}, g),
                               randint(0, classes, tokens, g)};
              },
          .op = [](const Tensors& in) { return linear_cross_entropy(in[0], in[1], in[2]); },
          .composition =
              [](const Tensors& in) {
                return cross_entropy_of_small_ops(matmul(in[0], transpose(in[1], 0, 1)), in[2], {});
              },
          .parameters = {1},
          .reduction = [](int64_t n) { return double(2 * n + 13); },
          .cancelling = 0.02,
          .sizes = {0, 1, 31, 33},
          .parallel = {600, 9000, 32},
          .cost =
              [](const Shape& shape, DType dtype) {
                const int64_t classes = shape[shape.rank() - 2], d = shape[shape.rank() - 1];
                const int64_t rows = leading(shape, 2).numel();
                const double product = 2.0 * double(rows * classes) * double(d);
                const double bytes =
                    double(rows * d) * double(size_of(dtype)) + 4.0 * double(classes * d);
                return Costs{.forward = {.flop = product,
                                         .bytes = bytes,
                                         .traffic = Traffic::read,
                                         .gemm = true},
                             .both = {.flop = 3 * product, .bytes = 2 * bytes, .gemm = true}};
              }};
}

/// With a bias, every term of the loss, and logits that are capped unless `softcap` is 0.
inline OpCase full_linear_cross_entropy_case(double softcap) {
  const CrossEntropyOptions loss{.ignore_index = 1, .label_smoothing = 0.1, .z_loss = 0.01};
  OpCase c = linear_cross_entropy_case();
  c.name += ", softcap " + std::to_string(softcap);
  c.inputs = [](Generator& g, const Shape& shape) {
    const int64_t classes = shape[shape.rank() - 2], d = shape[shape.rank() - 1];
    const Shape tokens = leading(shape, 2);
    return Tensors{randn(extended(tokens, d), g), randn({classes, d}, g),
                   randint(0, classes, tokens, g), randn({classes}, g)};
  };
  c.op = [=](const Tensors& in) {
    return linear_cross_entropy(in[0], in[1], in[2],
                                {.bias = in[3], .softcap = softcap, .loss = loss});
  };
  c.composition = [=](const Tensors& in) {
    Tensor logits = matmul(in[0], transpose(in[1], 0, 1)) + in[3];
    if (softcap > 0) logits = tanh(logits / softcap) * softcap;
    return cross_entropy_of_small_ops(logits, in[2], loss);
  };
  c.parameters = {1, 3};
  return c;
}

}  // namespace olm::test
