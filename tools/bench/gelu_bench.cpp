#include <olm/autograd/ops/pointwise.h>

#include "tools/bench/bench.h"

namespace olm::tools {

/// The exact one, and the approximation by tanh.
void add_gelu(Cases& cases, const Sizes& shape, DType dtype) {
  const double bytes = double(shape[0] * shape[1]) * double(size_of(dtype));
  for (const bool exact : {true, false})
    add_op(
        cases,
        {.name = exact ? "gelu" : "gelu_tanh",
         .shape = text_of(shape),
         .dtype = dtype,
         .forward = {.bytes = 2 * bytes},
         .both = {.bytes = 5 * bytes, .traffic = Traffic::axpy},
         .make =
             [=](Generator& rng) {
               return Tensors{randn({shape[0], shape[1]}, rng, {.dtype = dtype})};
             },
         .call = [=](const Tensors& x) { return Tensors{exact ? gelu(x[0]) : gelu_tanh(x[0])}; }});
}

}  // namespace olm::tools
