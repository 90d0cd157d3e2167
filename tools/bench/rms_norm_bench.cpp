#include <olm/autograd/ops/rms_norm.h>

#include "tools/bench/bench.h"

namespace olm::tools {

void add_rms_norm(Cases& cases, const Sizes& shape, DType dtype) {
  const int64_t rows = shape[0], cols = shape[1];
  const double n = double(rows * cols), bytes = n * double(size_of(dtype));
  add_op(cases,
         {.name = "rms_norm",
          .shape = text_of(shape),
          .dtype = dtype,
          .forward = {.flop = 4 * n, .bytes = 2 * bytes},
          .both = {.flop = 14 * n, .bytes = 5 * bytes, .traffic = Traffic::axpy},
          .make =
              [=](Generator& rng) {
                return Tensors{randn({rows, cols}, rng, {.dtype = dtype}), randn({cols}, rng)};
              },
          .call = [](const Tensors& x) { return Tensors{rms_norm(x[0], x[1])}; }});
}

}  // namespace olm::tools
