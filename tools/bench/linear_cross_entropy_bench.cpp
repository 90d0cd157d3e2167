#include <olm/autograd/ops/linear_cross_entropy.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// The head of a language model: x [rows, d], weight [classes, d] in f32.
void add_linear_cross_entropy(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], classes = shape[1], d = shape[2];
  const double product = 2.0 * double(rows * classes) * double(d);
  const double bytes = double(rows * d) * double(size_of(dtype)) + 4.0 * double(classes * d);
  Generator rng(2);
  const Tensor targets = randint(0, classes, {rows}, rng);
  add_op(
      cases,
      {.name = "linear_cross_entropy",
       .shape = text_of(shape),
       .dtype = dtype,
       .forward = {.flop = product, .bytes = bytes, .traffic = Traffic::read, .products = true},
       .both = {.flop = 3 * product, .bytes = 2 * bytes, .products = true},
       .make =
           [=](Generator& random) {
             const Tensor x = randn({rows, d}, random, {.dtype = dtype});
             return Tensors{x, uniform({classes, d}, random)};
           },
       .call =
           [=](const Tensors& x) { return Tensors{linear_cross_entropy(x[0], x[1], targets)}; }});
}

}  // namespace olm::tools
