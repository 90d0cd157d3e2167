#include <olm/autograd/ops/layer_norm.h>

#include "tools/bench/bench.h"

namespace olm::tools {

void add_layer_norm(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], cols = shape[1];
  const double n = double(rows * cols), bytes = n * double(size_of(dtype));
  add_op(cases, {.name = "layer_norm",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.flop = 8 * n, .bytes = 2 * bytes},
                 .both = {.flop = 22 * n, .bytes = 5 * bytes, .traffic = Traffic::axpy},
                 .make =
                     [=](Generator& rng) {
                       return Tensors{randn({rows, cols}, rng, {.dtype = dtype}),
                                      randn({cols}, rng), randn({cols}, rng)};
                     },
                 .call = [](const Tensors& x) { return Tensors{layer_norm(x[0], x[1], x[2])}; }});
}

}  // namespace olm::tools
