#include <olm/autograd/ops/softmax.h>

#include "tools/bench/bench.h"

namespace olm::tools {

void add_softmax(Cases& cases, const Sizes& shape, DType dtype) {
  const double bytes = double(shape[0] * shape[1]) * double(size_of(dtype));
  add_op(cases, {.name = "softmax",
                 .shape = text_of(shape),
                 .dtype = dtype,
                 .forward = {.bytes = 2 * bytes},
                 .both = {.bytes = 5 * bytes, .traffic = Traffic::axpy},
                 .make =
                     [=](Generator& rng) {
                       return Tensors{randn({shape[0], shape[1]}, rng, {.dtype = dtype})};
                     },
                 .call = [](const Tensors& x) { return Tensors{softmax(x[0])}; }});
}

}  // namespace olm::tools
