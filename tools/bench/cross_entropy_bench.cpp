#include <olm/autograd/ops/cross_entropy.h>

#include "tools/bench/bench.h"

namespace olm::tools {

void add_cross_entropy(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], classes = shape[1];
  const double bytes = double(rows * classes) * double(size_of(dtype));
  Generator rng(2);
  const Tensor targets = randint(0, classes, {rows}, rng);
  add_op(cases, {.name = "cross_entropy",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.bytes = bytes, .traffic = Traffic::read},
                 .both = {.bytes = 3 * bytes},
                 .make =
                     [=](Generator& random) {
                       return Tensors{randn({rows, classes}, random, {.dtype = dtype})};
                     },
                 .call = [=](const Tensors& x) { return Tensors{cross_entropy(x[0], targets)}; }});
}

}  // namespace olm::tools
